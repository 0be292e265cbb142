package probe_test

import (
	"context"
	"fmt"
	"os"

	"postcert/verify/probe"
)

// Ask a submission listener and say whether it serves what it should.
func ExampleHandshake() {
	var want [][]byte // DER of the leaf and its intermediates
	result := probe.Handshake(context.Background(), probe.Endpoint{
		Address:    "127.0.0.1:587",
		ServerName: "mail.example.com",
		Transcript: os.Stderr,
	})
	switch verdict, reason := probe.Compare(result, want); verdict {
	case probe.Proven:
		fmt.Println("served:", result.Leaf())
	case probe.Contradicted:
		fmt.Println("not served:", reason, result.Detail)
	case probe.NotVerified:
		fmt.Println("could not be seen:", reason, result.Detail)
	}
}
