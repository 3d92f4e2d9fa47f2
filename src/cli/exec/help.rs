//! The texts of `valetd exec --help`. At most 80 columns.

use super::clients;

/// What it does, with the table of programs in its place.
pub(super) fn long() -> String {
    format!("{BEFORE}\n\n{}\n{AND}", clients::table())
}

const BEFORE: &str = "\
Run a command with the routes' addresses in its environment, as soon as their
accounts have a usable token. valetd is replaced by the command, so that its
exit code and its signals are its own.

  VALETD_URL     where the routes are: http://localhost:8253
  GBDX_URL       the route gbdx: http://localhost:8253/gbdx
  GBDX_RDA_URL   the route gbdx-rda, and so on: upper case, - becomes _
  VALETD_KEY     a client key for the routes of -r (all, without), which is
                 good for as long as the command and its children run, and
                 for processes of your user alone, or of --for-user NAME

With -r, these are addresses of the command's own, such as
http://127.0.0.1:40311/gbdx: only the routes of -r exist there, whichever key is
presented, and the other routes have no variable. They end with the command and
its children, and when the daemon stops; a restarted daemon has others.

Where the environment names a proxy, localhost, 127.0.0.1 and the hosts of these
addresses are added to NO_PROXY, with -r or without. Variables that 'valetd
login --import' would take a refresh token from, such as GDH_REFRESH_TOKEN, are
taken out.

A process of yours still reaches every route on the common addresses without a
key, a command of exec -r too, unless the configuration says require_key = true;
with strict_exec = true, exec runs nothing until it does.

--intercept is for programs that know no other address than the API's own, and
is meant by -r alone where the provider's preset says so (gbdx): they find a
proxy of their own (HTTPS_PROXY, HTTP_PROXY), and requests for the routes' hosts
get the routes' tokens; Authorization of their own is dropped. exec stays beside
the command, hands signals and the exit code through, and ends TLS itself. What
no route leads to passes untouched, through the proxy that was named before;
with --only it is refused.

The certificate authority that the command is told to trust is made at its
start, is in memory only, and ends with it. It vouches for the routes' hosts
(X.509 name constraints, which hold for what is below them, too) and for no
address; whoever got hold of it could do nothing else with it.

Once the command's keys are revoked ('valetd key list'), it gets no tokens any
more. Where require_key is switched on while it runs, it is refused: start it
anew.

A program that asks the provider's token endpoint itself is given a placeholder
where the preset says so.

Programs find the proxy in HTTPS_PROXY and HTTP_PROXY, in upper and lower case,
and the authority in what these variables name, beside what they named before
(or the system's):";

const AND: &str = "\
VALETD_CA, NODE_EXTRA_CA_CERTS and DENO_CERT name the authority alone. An npmrc
with a cafile of its own wants --cafile $SSL_CERT_FILE. Chromium has a store of
its own: certutil -A -d sql:$HOME/.pki/nssdb -t C,, -n exec -i $VALETD_CA, and
takes --proxy-server=$https_proxy.

--isolate is --intercept behind a wall, for agents and for code that nobody has
read. The command is in namespaces of its own (users, mounts, processes and
network, by bubblewrap; no root is needed), and reaches the routes of -r, by
their hosts and by their URLs, and nothing else: no other route, no other host
but those of --allow, no service of this machine, no control socket, no file of
valetd's, no bus, agent, display or container socket, no process outside. It
sees the system read-only, an empty home, the working directory, which it may
change, and what --bind and --ro name; a filter keeps it from system calls that
lead out. Folders of the system where the configuration or the daemon keeps
something as exec starts, or where a program listens at a socket, are empty
inside, and so is what not everybody may read in /etc and /usr/local/etc; a
folder that would show what is valetd's is refused. What you redirect to it, it
can read or write as you opened it; a folder is refused there. It makes no file
set-user-ID. In there you are called root, and have none of its capabilities.
Also programs are served that read no variable at all.";

pub(super) const AFTER: &str = "\
Examples:
  valetd exec -r gbdx -- sh -c 'curl $GBDX_URL/catalog/v2/...'
  valetd exec --timeout 2m -- python3 nightly.py
  valetd exec -r gbdx --key-in-url --for-user sandbox -- sudo -u sandbox agent
  valetd exec -r gbdx --intercept -- python3 with_gbdxtools.py
  valetd exec -r gbdx --intercept --shell
  valetd exec --account gbdx --print-env
  valetd exec -r gbdx --isolate -- agent 'find scenes over Copenhagen'

Exit codes: the command's own; 126 it cannot be run, 127 there is none; before
it runs: 1 the daemon does not run, has no such route or refuses (strict_exec),
3 somebody must sign in, 4 not usable in time, 6 its configuration is broken.";
