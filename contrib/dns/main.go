// Postcert-dns writes the record of a dns-01 challenge at any DNS provider that
// lego knows, for postcert's provider exec.
//
//	postcert-dns [flags] PROVIDER present|cleanup FQDN VALUE
//
// It is a module of its own, because lego's 195 providers bring two hundred
// modules with them, and postcert needs none of them for its own ones.
//
// FQDN is the effective name of the record: postcert has followed CNAMEs. lego
// takes neither a name nor a value, but a domain and a key authorization, from
// which it makes both, so postcert passes the key authorization in the
// environment, and what VALUE says is checked. How lego is made to write just
// FQDN is in desk.go.
//
// Many of lego's providers remember in memory what they have made, and cannot
// remove it in another process. So present leaves a process behind that keeps the
// provider until cleanup has come for each record (holder.go).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// keyAuthorization is the variable in which postcert passes the key authorization.
const keyAuthorization = "POSTCERT_KEY_AUTHORIZATION"

// options are the flags.
type options struct {
	credentials string        // file with lego's variables
	resolvers   list          // recursive name servers
	runtime     string        // directory of the holder's socket
	hold        time.Duration // how long a record may wait for its clean-up
}

// list is a flag that may be given more than once.
type list []string

func (l *list) String() string { return strings.Join(*l, ",") }

// Set implements flag.Value.
func (l *list) Set(s string) error {
	*l = append(*l, s)
	return nil
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], os.Getenv(keyAuthorization), os.Stderr)
	stop()
	os.Exit(status)
}

const usage = `usage: postcert-dns [flags] PROVIDER present|cleanup FQDN VALUE
       postcert-dns list
`

func run(ctx context.Context, args []string, keyAuth string, stderr io.Writer) int {
	var o options
	flags := flag.NewFlagSet("postcert-dns", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, usage); flags.PrintDefaults() }
	flags.StringVar(&o.credentials, "credentials", "", "file with lego's variables for the provider, NAME=VALUE; for root only")
	flags.Var(&o.resolvers, "resolver", "recursive name server, host or host:port; may be repeated (default: those of /etc/resolv.conf)")
	flags.StringVar(&o.runtime, "runtime", "/run/postcert-dns", "directory for the socket of the process that waits for cleanup")
	flags.DurationVar(&o.hold, "hold", 2*time.Hour, "a record is removed after this time if cleanup has not come")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	err := command(ctx, o, flags.Args(), keyAuth)
	var u usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &u):
		fmt.Fprintf(stderr, "postcert-dns: %v\n%s", err, usage)
		return 2
	}
	fmt.Fprintf(stderr, "postcert-dns: %v\n", err)
	return 1
}

// usageError is a wrong call.
type usageError string

func (e usageError) Error() string { return string(e) }

func command(ctx context.Context, o options, args []string, keyAuth string) error {
	switch {
	case len(args) == 1 && args[0] == "list":
		fmt.Println(strings.Join(codes, "\n"))
		return nil
	case len(args) == 2 && args[1] == holdWord:
		return hold(ctx, o, args[0])
	case len(args) != 4:
		return usageError("four arguments are needed")
	}
	r := request{Op: args[1], FQDN: strings.ToLower(args[2]), KeyAuth: keyAuth}
	switch {
	case r.Op != "present" && r.Op != "cleanup":
		return usageError("neither present nor cleanup: " + r.Op)
	case !strings.HasSuffix(r.FQDN, ".") || strings.Count(r.FQDN, ".") < 2:
		return usageError("not a fully qualified name with a final dot: " + r.FQDN)
	case keyAuth == "":
		return fmt.Errorf("%s is not set: lego makes the value from it", keyAuthorization)
	case value(keyAuth) != args[3]:
		return fmt.Errorf("%s does not belong to VALUE", keyAuthorization)
	}
	return ask(ctx, o, args[0], r)
}
