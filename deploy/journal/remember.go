package journal

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
)

// Remember adds a record of something that changed nothing, such as a refusal,
// to the history. It returns the record's id.
func (j Journal) Remember(result string, detail json.RawMessage) (string, error) {
	var random [12]byte
	rand.Read(random[:]) // never fails, crypto/rand
	id, now := hex.EncodeToString(random[:]), j.now().UTC()
	return id, j.remember(Record{ID: id, Begun: now, Closed: now, Result: result, Detail: detail, Writes: []Changed{}})
}
