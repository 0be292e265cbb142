package acme

// directories are the CAs that people call by a name. Any other is given by its
// URL.
var directories = []struct{ name, url, staging string }{
	{"letsencrypt", "https://acme-v02.api.letsencrypt.org/directory", "https://acme-staging-v02.api.letsencrypt.org/directory"},
	{"letsencrypt-staging", "https://acme-staging-v02.api.letsencrypt.org/directory", ""},
	{"google", "https://dv.acme-v02.api.pki.goog/directory", "https://dv.acme-v02.test-api.pki.goog/directory"},
	{"google-staging", "https://dv.acme-v02.test-api.pki.goog/directory", ""},
	{"zerossl", "https://acme.zerossl.com/v2/DV90", ""},
	{"sslcom-ecc", "https://acme.ssl.com/sslcom-dv-ecc", ""},
	{"sslcom-rsa", "https://acme.ssl.com/sslcom-dv-rsa", ""},
	{"actalis", "https://acme-api.actalis.com/acme/directory", ""},
}

// DirectoryURL is the directory of a CA by the name that people call it, and
// that of its trials ("" if it has none). ok is false for an unknown name.
func DirectoryURL(name string) (url, staging string, ok bool) {
	for _, d := range directories {
		if d.name == name {
			return d.url, d.staging, true
		}
	}
	return "", "", false
}

// StagingURL is the directory for trials of a CA that is known by its URL, ""
// if it has none.
func StagingURL(directory string) string {
	for _, d := range directories {
		if d.url == directory && d.staging != "" {
			return d.staging
		}
	}
	return ""
}
