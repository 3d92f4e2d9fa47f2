//! What the proxy counts: written by the workers, read by the control socket. Numbers only.
