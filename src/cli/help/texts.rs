//! The texts of `--help` that teach. At most 80 columns.

/// What valetd is, and the first steps.
pub(in crate::cli) const ABOUT: &str = "\
valetd holds your OAuth refresh tokens, renews access tokens before they run
out, and proxies localhost requests to APIs with the right Authorization
header. Scripts, notebooks and tools get a URL and never see a credential.

First steps:

  1. Sign in, once:          valetd login cdse
  2. Start it, for good:     valetd service install
                             (or, in this terminal: valetd run)
  3. Use it, from anything:  curl http://localhost:8253/cdse/odata/v1/...

Any other account:           valetd add NAME PROVIDER|URL
                             (valetd providers lists those that it knows)
What is going on:            valetd status
More of everything:          valetd help";

/// Files, environment and exit codes.
pub(in crate::cli) const AFTER: &str = "\
Files:
  $XDG_CONFIG_HOME/valetd/config.toml       the configuration  (--config)
  $XDG_CONFIG_HOME/valetd/providers/*.toml  providers of your own
  $XDG_STATE_HOME/valetd/                   credentials, 0600  (--state-dir)
  $XDG_RUNTIME_DIR/valetd/valetd.sock       control socket     (--socket)
  Unless set, these are ~/.config, ~/.local/state and /run/user/UID.

Environment:
  RUST_LOG              what the daemon logs, where --log does not say it
  NO_COLOR              no colour, also on a terminal
  HTTPS_PROXY, ALL_PROXY, NO_PROXY (or in lower case)
                        the way to the authorization servers and APIs:
                        http, https, socks5 or socks5h. Never on this machine;
                        an account's `proxy` comes first

Exit codes:
  0  done; for status and wait: every account is usable
  1  not done; the daemon does not run or cannot be reached
  2  the arguments make no sense
  3  somebody must sign in
  4  there is no usable token now; it is being worked on
  5  the store is locked: the key of sealed credentials is away
  6  the daemon has no configuration: its file cannot be used

The control socket speaks HTTP:
  curl --unix-socket $XDG_RUNTIME_DIR/valetd/valetd.sock http://v/v1/status";
