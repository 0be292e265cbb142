package probe

import (
	"crypto/tls"
	"encoding/json"
)

type jsonEndpoint struct {
	Network       string   `json:"network"`
	Address       string   `json:"address"`
	Mode          Mode     `json:"mode"`
	Protocol      Protocol `json:"protocol"`
	ServerName    string   `json:"sni"`
	KeyType       string   `json:"key_type"`
	ProxyProtocol bool     `json:"proxy_protocol"`
	Timeout       int64    `json:"timeout_ms"`
}

// MarshalJSON writes the question as it was asked, defaults filled in.
func (e Endpoint) MarshalJSON() ([]byte, error) {
	e = e.withDefaults()
	return json.Marshal(jsonEndpoint{
		Network: e.Network, Address: e.Address, Mode: e.Mode, Protocol: e.Protocol,
		ServerName: e.ServerName, KeyType: e.KeyType, ProxyProtocol: e.ProxyProtocol,
		Timeout: e.Timeout.Milliseconds(),
	})
}

type jsonResult struct {
	Endpoint     Endpoint `json:"endpoint"`
	Reason       Reason   `json:"reason"`
	Detail       string   `json:"detail"`
	Phase        Phase    `json:"phase"`
	Leaf         string   `json:"leaf"`
	Fingerprints []string `json:"fingerprints"`
	Protocol     string   `json:"protocol"`
	Cipher       string   `json:"cipher"`
	Took         int64    `json:"took_ms"`
}

// MarshalJSON writes r with fingerprints in place of certificates. Unknown
// protocol and cipher are "", fingerprints is never null.
func (r Result) MarshalJSON() ([]byte, error) {
	j := jsonResult{
		Endpoint: r.Endpoint, Reason: r.Reason, Detail: r.Detail, Phase: r.Phase,
		Leaf: r.Leaf(), Fingerprints: r.Fingerprints(), Took: r.Took.Milliseconds(),
	}
	if r.Protocol != 0 {
		j.Protocol = tls.VersionName(r.Protocol)
	}
	if r.Cipher != 0 {
		j.Cipher = tls.CipherSuiteName(r.Cipher)
	}
	return json.Marshal(j)
}
