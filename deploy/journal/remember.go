package journal

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
)

// Remember adds a record of something that changed nothing, such as a refusal,
// to the history.
func (j Journal) Remember(result string, detail json.RawMessage) error {
	var id [12]byte
	rand.Read(id[:]) // never fails, crypto/rand
	now := j.now().UTC()
	return j.remember(Record{ID: hex.EncodeToString(id[:]), Begun: now, Closed: now, Result: result, Detail: detail, Writes: []Changed{}})
}
