#!/usr/bin/env sh

# Deploys a certificate to Postfix, proven on every listener or rolled back.
#
#   cp postcert.sh ~/.acme.sh/deploy/
#   acme.sh --deploy -d mail.example.com --deploy-hook postcert
#
# acme.sh calls NAME_deploy DOMAIN KEY CERT CA FULLCHAIN (acme.sh, _deploy) after
# each renewal. What goes wrong is remembered: see "postcert status".

postcert_deploy() {
  /usr/bin/postcert hook --cert "$5" --key "$2"
}
