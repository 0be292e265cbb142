package dns

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Dynamic update (RFC 2136) with a signature by a shared key (TSIG, RFC 8945).
// lego's provider brings Kerberos with it, replaces the whole record set, so that
// a name and its wildcard remove each other's value, and takes an unsigned answer
// for a signed one.

var rfc2136Definition = &definition{
	name: "rfc2136", aliases: []string{"dnsupdate"}, lego: []string{"RFC2136_", "DNSUPDATE_"}, certbot: []string{"dns_rfc2136_"},
	ttl: 120, propagation: time.Minute, interval: 2 * time.Second,
	fields: []Field{
		{Name: "server", Meaning: "primary name server: host, host:port or [IPv6]:port", Required: true,
			Lego: []string{"RFC2136_NAMESERVER", "DNSUPDATE_NAMESERVER"}, Certbot: []string{"dns_rfc2136_server"}},
		{Name: "port", Meaning: "its port, if server has none", Default: "53", Certbot: []string{"dns_rfc2136_port"}},
		{Name: "name", Meaning: "name of the key; without it updates are not signed",
			Lego: []string{"RFC2136_TSIG_KEY", "DNSUPDATE_TSIG_KEY"}, Certbot: []string{"dns_rfc2136_name"}},
		{Name: "secret", Meaning: "the key, base64", Secret: true,
			Lego: []string{"RFC2136_TSIG_SECRET", "DNSUPDATE_TSIG_SECRET"}, Certbot: []string{"dns_rfc2136_secret"}},
		{Name: "algorithm", Meaning: "hmac-sha1, hmac-sha224, hmac-sha256, hmac-sha384 or hmac-sha512", Default: "hmac-sha256",
			Lego: []string{"RFC2136_TSIG_ALGORITHM", "DNSUPDATE_TSIG_ALGORITHM"}, Certbot: []string{"dns_rfc2136_algorithm"}},
		{Name: "zone", Meaning: "zones that the server is primary for, separated by commas, if it cannot be asked",
			Lego: []string{"RFC2136_ZONES", "DNSUPDATE_ZONES"}},
		{Name: "sign_query", Meaning: "yes: sign the question for the zone too", Default: "no", Certbot: []string{"dns_rfc2136_sign_query"}},
		{Name: "dns_timeout", Meaning: "time limit of one exchange with the server, seconds", Default: "10", Lego: []string{"RFC2136_DNS_TIMEOUT", "DNSUPDATE_DNS_TIMEOUT"}},
		{Name: "sequence_interval", Meaning: "lego's pause between names: has no effect", Lego: []string{"RFC2136_SEQUENCE_INTERVAL", "DNSUPDATE_SEQUENCE_INTERVAL"}},
	},
	build: buildRFC2136,
}

var tsigAlgorithms = map[string]string{
	"hmac-sha1": dns.HmacSHA1, "hmac-sha224": dns.HmacSHA224, "hmac-sha256": dns.HmacSHA256,
	"hmac-sha384": dns.HmacSHA384, "hmac-sha512": dns.HmacSHA512,
}

type rfc2136 struct {
	server    string
	key       string // "" does not sign
	algorithm string
	secret    map[string]string
	zones     []string
	signQuery bool
	ttl       uint32
	timeout   time.Duration
}

// md5Reason is why a key for HMAC-MD5 is refused (RFC 8945 section 6).
const md5Reason = "HMAC-MD5 must not be used any more (RFC 8945); make a new key with tsig-keygen -a hmac-sha256"

func buildRFC2136(s *setting) (backend, error) {
	v := s.values
	port, err := number("port", v["port"], 1, 65535)
	if err != nil {
		return nil, err
	}
	seconds, err := number("dns_timeout", v["dns_timeout"], 1, 600)
	if err != nil {
		return nil, err
	}
	b := &rfc2136{ttl: uint32(s.ttl), timeout: time.Duration(seconds) * time.Second}
	if b.signQuery, err = yes("sign_query", v["sign_query"]); err != nil {
		return nil, err
	}
	if b.server, err = serverAddress(v["server"], port); err != nil {
		return nil, err
	}
	for zone := range strings.SplitSeq(v["zone"], ",") {
		if zone = strings.TrimSpace(zone); zone != "" {
			b.zones = append(b.zones, dns.CanonicalName(zone))
		}
	}
	// certbot's documentation has a secret with a space in it, which does not count.
	secret := strings.Join(strings.Fields(v["secret"]), "")
	s.hide(secret)
	return b, b.setKey(v["name"], secret, v["algorithm"])
}

func serverAddress(server string, port int) (string, error) {
	address := withPort(server, strconv.Itoa(port))
	host, _, err := net.SplitHostPort(address)
	if err != nil || host == "" || strings.ContainsAny(host, " /@") {
		return "", errors.New("server: neither host nor host:port")
	}
	return address, nil
}

func (b *rfc2136) setKey(name, secret, algorithm string) error {
	if name == "" && secret == "" {
		return nil
	}
	if name == "" || secret == "" {
		return errors.New("name and secret of the key belong together")
	}
	algorithm = strings.ToLower(strings.TrimSuffix(algorithm, "."))
	if strings.HasPrefix(algorithm, "hmac-md5") {
		return errors.New("algorithm: " + md5Reason)
	}
	if b.algorithm = tsigAlgorithms[algorithm]; b.algorithm == "" {
		return errors.New("algorithm: not one of hmac-sha1, hmac-sha224, hmac-sha256, hmac-sha384, hmac-sha512")
	}
	if raw, err := base64.StdEncoding.DecodeString(secret); err != nil || len(raw) == 0 {
		return errors.New("secret: not base64")
	}
	if _, ok := dns.IsDomainName(name); !ok {
		return errors.New("name: not the name of a key")
	}
	b.key = dns.CanonicalName(name)
	b.secret = map[string]string{b.key: secret}
	return nil
}

func (b *rfc2136) present(ctx context.Context, r record) error {
	return b.update(ctx, r.fqdn, func(m *dns.Msg) { m.Insert(b.txt(r.fqdn, r.value())) })
}

func (b *rfc2136) cleanUp(ctx context.Context, r record) error {
	return b.update(ctx, r.fqdn, func(m *dns.Msg) { m.Remove(b.txt(r.fqdn, r.value())) })
}

// check removes a value that nobody has written: the server looks at key and
// policy as for any update, and nothing changes.
func (b *rfc2136) check(ctx context.Context, r record) error {
	return b.update(ctx, r.fqdn, func(m *dns.Msg) { m.Remove(b.txt(r.fqdn, "postcert checks its key")) })
}

func (b *rfc2136) txt(fqdn, value string) []dns.RR {
	return []dns.RR{&dns.TXT{Hdr: dns.RR_Header{Name: fqdn, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: b.ttl}, Txt: []string{value}}}
}

func (b *rfc2136) update(ctx context.Context, fqdn string, change func(*dns.Msg)) error {
	zone, err := b.zone(ctx, fqdn)
	if err != nil {
		return err
	}
	m := new(dns.Msg).SetUpdate(zone)
	change(m)
	reply, err := b.exchange(ctx, m, true)
	if err != nil {
		return err
	}
	return b.refusal(reply, "the update of zone "+zone)
}

// zone asks the server itself: it has to be the one that holds the zone.
func (b *rfc2136) zone(ctx context.Context, fqdn string) (string, error) {
	if len(b.zones) > 0 {
		best := ""
		for _, zone := range b.zones {
			if dns.IsSubDomain(zone, fqdn) && len(zone) > len(best) {
				best = zone
			}
		}
		if best == "" {
			return "", faulty(NoZone, "none of the zones that are given holds "+fqdn)
		}
		return best, nil
	}
	for _, i := range dns.Split(fqdn) {
		m := new(dns.Msg).SetQuestion(fqdn[i:], dns.TypeSOA)
		m.RecursionDesired = false
		reply, err := b.exchange(ctx, m, b.signQuery)
		if err != nil {
			return "", err
		}
		sig := reply.IsTsig()
		switch {
		case sig != nil && sig.Error != dns.RcodeSuccess:
			return "", b.refusal(reply, "the question for the zone of "+fqdn)
		case reply.Rcode == dns.RcodeSuccess, reply.Rcode == dns.RcodeNameError:
			if zone := soaOwner(reply, fqdn[i:]); zone != "" && reply.Authoritative {
				return zone, nil
			}
		case reply.Rcode == dns.RcodeRefused, reply.Rcode == dns.RcodeNotAuth: // not one of its zones; the parent may be
		default:
			return "", b.refusal(reply, "the question for the zone of "+fqdn)
		}
	}
	return "", faulty(NoZone, fmt.Sprintf("%s holds no zone of %s", b.server, fqdn))
}

// exchange sends m, signed if there is a key and sign says so, over TCP: an
// update is not to be repeated because its answer was lost.
func (b *rfc2136) exchange(ctx context.Context, m *dns.Msg, sign bool) (*dns.Msg, error) {
	t := &transaction{network: "tcp", server: b.server, timeout: b.timeout}
	if sign = sign && b.key != ""; sign {
		t.secret = b.secret
		m.SetTsig(b.key, b.algorithm, 300, time.Now().Unix())
	}
	reply, err := t.do(ctx, m)
	if reply != nil && sign && reply.Rcode == dns.RcodeNotAuth {
		// The server cannot sign its answer if it does not know the key.
		return reply, nil
	}
	if err != nil {
		kind := Unavailable
		if slices.Contains([]error{dns.ErrSig, dns.ErrSecret, dns.ErrKey, dns.ErrKeyAlg, dns.ErrTime}, errors.Unwrap(err)) {
			kind = Refused
		}
		return nil, &fault{kind: kind, err: err}
	}
	if sign && reply.IsTsig() == nil && reply.Rcode == dns.RcodeSuccess {
		return nil, faulty(Refused, b.server+" answers without a signature: it does not know the key")
	}
	return reply, nil
}

// refusal is the error that an answer tells of, in words.
func (b *rfc2136) refusal(reply *dns.Msg, what string) error {
	if reply.Rcode == dns.RcodeSuccess {
		return nil
	}
	text := fmt.Sprintf("%s answers %s to %s", b.server, dns.RcodeToString[reply.Rcode], what)
	if sig := reply.IsTsig(); sig != nil {
		switch sig.Error {
		case dns.RcodeBadKey:
			return faulty(Refused, text+": BADKEY: it has no key "+b.key+" for "+strings.TrimSuffix(b.algorithm, "."))
		case dns.RcodeBadSig:
			return faulty(Refused, text+": BADSIG: the secret is not that of its key "+b.key)
		case dns.RcodeBadTime:
			return faulty(Refused, text+": BADTIME: the clocks of the two hosts differ by more than five minutes")
		}
	}
	switch reply.Rcode {
	case dns.RcodeNotAuth, dns.RcodeNotZone:
		return faulty(NoZone, text+": it is not primary for it")
	case dns.RcodeRefused:
		return faulty(Refused, text+": the key is not allowed to make it")
	case dns.RcodeServerFailure:
		return faulty(Unavailable, text)
	}
	return errors.New(text)
}
