//! The names that a person gives to accounts, routes and client keys.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) struct $name(Arc<str>);

        impl $name {
            /// Takes a name if it is one: 1 to 63 of `a-z 0-9 - _`, not beginning with `-` or `_`, so that it can
            /// stand in a path, a host name, a file name and an environment variable's name.
            pub(crate) fn new(name: &str) -> Option<Self> {
                let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
                let starts_well = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
                (starts_well && name.len() <= 63 && name.chars().all(good)).then(|| Self(name.into()))
            }

            /// The name as text.
            pub(crate) fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name_type! {
    /// The name of an account: what is signed in.
    AccountId
}
name_type! {
    /// The name of a route: the first segment of its local path and the first label of its local host name.
    RouteName
}
name_type! {
    /// The name of a client key: what it is for.
    KeyName
}
