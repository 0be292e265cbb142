package config

import (
	"bytes"
	"fmt"
	"strconv"

	"github.com/spf13/viper"

	"postcert/verify/problem"
)

// Scalar is a key that has a layer above the file: a flag of the command line
// wins over the environment variable, that over the file, that over the default.
// An empty environment variable counts as not set.
type Scalar struct {
	Key      string // in postcert.yaml, with dots; config and instance exist only as flag and variable
	Variable string // POSTCERT_...
	Flag     string // without the dashes

	fallback any // what is in force when nobody says anything; its type is the key's
	set      func(*Config, any)
}

// Scalars are all keys that a flag or an environment variable may set. No other
// POSTCERT_ variable has an effect.
func Scalars() []Scalar {
	return []Scalar{
		{"config", "POSTCERT_CONFIG", "config", DefaultFile, func(c *Config, v any) { c.File = v.(string) }},
		{"instance", "POSTCERT_INSTANCE", "instance", "", func(c *Config, v any) { c.Instance = v.(string) }},
		{"state_dir", "POSTCERT_STATE_DIR", "state-dir", "/var/lib/postcert", func(c *Config, v any) { c.StateDir = v.(string) }},
		{"runtime_dir", "POSTCERT_RUNTIME_DIR", "runtime-dir", "/run/postcert", func(c *Config, v any) { c.RuntimeDir = v.(string) }},
		{"keep_generations", "POSTCERT_KEEP_GENERATIONS", "keep-generations", 3, func(c *Config, v any) { c.KeepGenerations = v.(int) }},
		{"acme.directory", "POSTCERT_ACME_DIRECTORY", "directory", "letsencrypt", func(c *Config, v any) { c.ACME.Directory = v.(string) }},
		{"acme.email", "POSTCERT_ACME_EMAIL", "email", "", func(c *Config, v any) { c.ACME.Email = v.(string) }},
		{"acme.agree_tos", "POSTCERT_ACME_AGREE_TOS", "agree-tos", false, func(c *Config, v any) { c.ACME.AgreeTOS = v.(bool) }},
	}
}

// Layer is where the value of a key came from.
type Layer string

const (
	FromFlag        Layer = "flag"
	FromEnvironment Layer = "environment"
	FromFile        Layer = "file"
	FromDefault     Layer = "default"
)

// Origin is where the value of one key came from.
type Origin struct {
	Layer Layer  `json:"layer"`
	Name  string `json:"name"` // the flag with its dashes, or the variable; empty for file and default
	Line  int    `json:"line"` // in the file, for FromFile
}

func (o Origin) String() string {
	switch o.Layer {
	case FromFile:
		return fmt.Sprintf("%s, line %d", o.Layer, o.Line)
	case FromFlag, FromEnvironment:
		return string(o.Layer) + " " + o.Name
	}
	return string(FromDefault)
}

// layers answers one question with viper: which value of a scalar key is in
// force.
//
// viper's own reading of the environment (BindEnv, AutomaticEnv) is not used. It
// calls os.Getenv whenever a value is asked for, and the process environment is
// cleared before anything else runs (it is a value that main hands over). So the
// two upper layers are written into viper's one layer above the file, its
// overrides: first the environment, then, over it, the flags. MergeConfigMap
// would be the other way, but it silently keeps the file's side where the file
// has `acme:` with nothing below it.
type layers struct {
	viper   *viper.Viper
	origins map[string]Origin
}

// newLayers holds the defaults, the environment and the flags. flags are by key
// and only those given; environment is by name of the variable.
func newLayers(flags, environment map[string]string) *layers {
	l := &layers{viper: viper.New(), origins: map[string]Origin{}}
	l.viper.SetConfigType("yaml")
	for _, s := range Scalars() {
		l.viper.SetDefault(s.Key, s.fallback)
		if text := environment[s.Variable]; text != "" {
			l.viper.Set(s.Key, text)
			l.origins[s.Key] = Origin{Layer: FromEnvironment, Name: s.Variable}
		}
		if text, given := flags[s.Key]; given {
			l.viper.Set(s.Key, text)
			l.origins[s.Key] = Origin{Layer: FromFlag, Name: "--" + s.Flag}
		}
	}
	return l
}

// file gives viper the bytes that the strict reader has accepted.
func (l *layers) file(data []byte) error {
	return l.viper.ReadConfig(bytes.NewReader(data))
}

// path is the configuration file to look for, and whether somebody named it.
func (l *layers) path() (file string, named bool) {
	_, named = l.origins["config"]
	return l.viper.GetString("config"), named
}

// apply sets every scalar key of c to the value in force. Values are converted
// here and not by viper, whose GetInt makes 0 of "many" and whose GetBool makes
// true of "1". A refused key is marked in bad, so that it is judged only once.
func (l *layers) apply(c *Config, bad map[string]bool) problem.List {
	var problems problem.List
	for _, s := range Scalars() {
		value := l.viper.Get(s.Key)
		origin, above := l.origins[s.Key]
		if text, isText := value.(string); isText && above {
			converted, want := convert(text, s.fallback)
			if want != "" {
				problems = append(problems, problem.New("config_type", problem.At{}, "%s must be %s, not %q", origin.Name, want, brief(text)))
				bad[s.Key] = true
				continue
			}
			value = converted
		}
		if sameType(value, s.fallback) {
			s.set(c, value)
		} // else the strict reader has reported the file's value
	}
	return problems
}

// convert makes a value of the type of like from text; want says, if it cannot,
// what the text should have been.
func convert(text string, like any) (value any, want string) {
	switch like.(type) {
	case int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return nil, "a whole number"
		}
		return n, ""
	case bool:
		switch text {
		case "true":
			return true, ""
		case "false":
			return false, ""
		}
		return nil, "true or false"
	}
	return text, ""
}

func sameType(a, b any) bool {
	switch b.(type) {
	case int:
		_, ok := a.(int)
		return ok
	case bool:
		_, ok := a.(bool)
		return ok
	}
	_, ok := a.(string)
	return ok
}
