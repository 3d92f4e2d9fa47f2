//! Where a token is taken or refused: a route, and a method and path on it.

/// Names a place by hashes: two that share one are taken for one, which costs a renewal or a 401 and nothing else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    /// The route; never zero.
    pub route: u32,
    /// The method and the path on it.
    pub resource: u32,
}

impl Place {
    /// A route, to ask for places on it.
    pub(crate) fn route(name: &str) -> u32 {
        fold(0, name) as u32 | 1
    }

    /// A place on a route.
    pub(crate) fn on(route: u32, method: &str, path: &str) -> Self {
        Self { route, resource: (fold(fold(u64::from(route), method), path) >> 32) as u32 }
    }
}

/// Eight bytes at a time: each request pays for it.
fn fold(seed: u64, text: &str) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |hash: u64, word: u64| (hash.rotate_left(23) ^ word).wrapping_mul(ODD);
    let mut chunks = text.as_bytes().chunks_exact(8);
    let hash = chunks.by_ref().fold(seed ^ text.len() as u64, |hash, chunk| {
        mix(hash, u64::from_le_bytes(chunk.try_into().expect("chunks of eight")))
    });
    let tail = chunks.remainder().iter().fold(1, |word: u64, byte| word << 8 | u64::from(*byte));
    let mixed = mix(hash, tail);
    mixed ^ mixed >> 32
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn routes_methods_and_paths_are_told_apart() {
        let routes = [Place::route("lab"), Place::route("lab2")];
        let mut resources = HashSet::new();
        for route in routes {
            for method in ["GET", "POST"] {
                for number in 0..1000 {
                    for path in [format!("/tiles/{number}"), format!("/{number}/a-longer-path/to/tiles")] {
                        let place = Place::on(route, method, &path);
                        assert_eq!(place, Place::on(route, method, &path));
                        resources.insert(place.resource);
                    }
                }
            }
        }
        assert!(resources.len() >= 7_990, "{}", resources.len());
    }
}
