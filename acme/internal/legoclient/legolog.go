package legoclient

import (
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync/atomic"

	legolog "github.com/go-acme/lego/v4/log"
)

// legoLogger is where lego's global logger writes: to the log of the Client that
// was made last, and nowhere before there is one. lego's default is standard
// error, which a hook's caller reads.
var legoLogger adapter

func init() { legolog.Logger = &legoLogger }

// adapter is a lego logger that writes to slog.
type adapter struct{ to atomic.Pointer[slog.Logger] }

func (a *adapter) Print(args ...any)                 { a.write(fmt.Sprint(args...)) }
func (a *adapter) Println(args ...any)               { a.write(fmt.Sprintln(args...)) }
func (a *adapter) Printf(format string, args ...any) { a.write(fmt.Sprintf(format, args...)) }

// Fatal and its like end the program in lego's commands. No package that we use
// calls them; a panic shows it if one ever does.
func (a *adapter) Fatal(args ...any)                 { a.fatal(fmt.Sprint(args...)) }
func (a *adapter) Fatalln(args ...any)               { a.fatal(fmt.Sprintln(args...)) }
func (a *adapter) Fatalf(format string, args ...any) { a.fatal(fmt.Sprintf(format, args...)) }

func (a *adapter) write(line string) {
	log := a.to.Load()
	if log == nil {
		return
	}
	if rest, found := strings.CutPrefix(line, "[WARN] "); found {
		log.Warn("lego: " + redact(rest))
		return
	}
	log.Debug("lego: " + redact(strings.TrimPrefix(line, "[INFO] ")))
}

func (a *adapter) fatal(line string) {
	if log := a.to.Load(); log != nil {
		log.Error("lego: " + redact(line))
	}
	panic("lego: " + redact(line))
}

var (
	secretQuery = regexp.MustCompile(`(?i)\b(jwt|token|key|password|secret)=[^&\s"']+`)
	userInfo    = regexp.MustCompile(`://[^/\s@"']+@`)
)

// redact takes out of a line what a URL may carry of secrets: user information,
// and the query of the link by which Let's Encrypt lets an account go on.
func redact(line string) string {
	line = userInfo.ReplaceAllString(line, "://...@")
	return secretQuery.ReplaceAllString(clean(line), "$1=...")
}
