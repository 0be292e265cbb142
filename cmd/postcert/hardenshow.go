package main

import (
	"slices"
	"strings"
)

// showWords prints what the change means: for which clients, and in which order.
func (h *hardening) showWords() {
	if len(h.done) > 0 {
		return // it was said before the first of two
	}
	for _, l := range h.say.LeftOut {
		h.text.printf("  left out     %s: %s\n", l.Rule, l.Reason)
	}
	for _, l := range h.say.Left {
		h.text.printf("  not done     %s [%s]: %s\n", l.Message, l.Rule, l.Words)
	}
	if h.say.Why != "" && len(h.say.Order) > 1 {
		h.text.printf("  order        %s\n  all of it is:\n", h.say.Why)
		h.text.diff(h.whole)
	}
	if h.profile.Name != "" && len(h.say.Clients) > 0 {
		h.showPeers(h.say.Log)
	}
	h.showClients()
}

// showClients says in two lines who must get through, and who will be turned away.
func (h *hardening) showClients() {
	n, away := 0, map[string][]string{}
	var order []string
	for _, c := range h.say.Clients {
		switch c.Demand {
		case required:
			n++
		case excluded:
			if !slices.Contains(order, c.Client) {
				order = append(order, c.Client)
			}
			away[c.Client] = append(away[c.Client], c.Endpoint)
		}
	}
	if len(h.say.Clients) == 0 {
		return
	}
	h.text.printf("  %d kinds of connections by openssl work now and must work afterwards.\n", n)
	for _, name := range order {
		h.text.printf("  turned away from now on: %s, at %s\n", name, strings.Join(away[name], ", "))
	}
}
