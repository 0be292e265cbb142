package dns

// New returns the provider of that name. It makes no request: what it refuses is
// an unknown name, and a value of o.Credentials that is unknown, missing or
// malformed. The error is an *Error of kind Configuration.
func New(name string, o Options) (Provider, error) {
	return nil, &Error{Provider: name, Op: "configure", Kind: Configuration}
}

// Names are the providers of this package, sorted.
func Names() []string { return nil }

// Fields describes the credentials of the provider, the required ones first; nil
// if there is no provider of that name.
func Fields(name string) []Field { return nil }

// Suggest returns the provider names nearest to name, of this package and of
// contrib/dns, nearest first, and whether contrib/dns has name itself.
func Suggest(name string) (near []string, inContrib bool) { return nil, false }

// ReadCredentials returns the values of a credentials file for the provider, by
// the Name of its Fields, for Options.Credentials.
//
// path has to be a regular file, no symbolic link, of at most 64 KiB, owned by root or
// the user that runs, and without any permission for group and others. Its lines
// are KEY = VALUE, where KEY is one of a field's names: ours, lego's variable, or
// certbot's key.
func ReadCredentials(path, provider string) (map[string]string, error) { return nil, nil }
