package status

import (
	"maps"
	"slices"
	"time"
)

// Refused is a deploy that was refused for good: the same pair, under the same
// configuration, can only be refused again. It is tried again when Inputs is
// another one, by the next pass; until then it is a failure that is told.
type Refused struct {
	ID      string    `json:"id"`
	Message string    `json:"message"`
	Since   time.Time `json:"since"`
	Inputs  string    `json:"inputs"` // digest of which files the pair and the configuration are, and of their times; not of a key
}

// exitRefused is the exit status of a refusal.
const exitRefused = 3

// Final tells whether a refusal with this id is repeated for certain as long as
// neither the pair nor the configuration changes. Three kinds of refusals are not
// final, and are tried again after the usual waits:
//
//   - what depends on the time, or on what the listeners happen to serve: a
//     certificate that is not valid yet, one that is older than the served one or
//     has fewer names;
//   - what depends on the host: a rehearsal, a file that cannot be read, a disk
//     that is full, anchors of the system's trust store;
//   - what nobody has thought about: an id that is not listed here.
func Final(id string) bool { return final[id] }

// FinalIDs are the ids of such refusals, sorted.
func FinalIDs() []string { return slices.Sorted(maps.Keys(final)) }

var final = set(
	// what the files hold
	"pem_empty", "pem_truncated", "pem_is_der", "pem_bom", "pem_label", "pem_header", "pem_encoding", "pem_wrong_type",
	"der_trailing", "der_invalid", "args_swapped", "cert_missing", "cert_precert", "encoding_differs",
	"key_missing", "key_mismatch", "key_encrypted", "key_format", "key_multiple", "key_inconsistent", "key_weak", "key_too_large", "key_not_first",
	"chain_conflict", "chain_order", "chain_duplicate", "chain_incomplete", "chain_bad_signature", "chain_expired", "chain_not_ca",
	// what the certificate is
	"sig_weak", "cert_expired", "cert_validity_order", "purpose_eku", "purpose_ku", "leaf_is_ca", "san_missing", "name_illegal",
	"ext_critical", "ext_invalid", "must_staple", "name_constraint", "pathlen", "self_signed", "issuer_staging",
	// what the configuration says
	"tls_not_enabled", "override_present", "stale_slot", "mixed_chain_file", "sni_maps_present", "client_certificate_follows",
	"value_not_utf8", "service_unknown", "keep_differs", "name_invalid",
	"sni_unsupported", "services_unsupported", "companion_account", "companion_program", "also_unsupported",
)

func set(list ...string) map[string]bool {
	out := map[string]bool{}
	for _, id := range list {
		out[id] = true
	}
	return out
}
