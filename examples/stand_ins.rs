//! Both providers' stand-ins on fixed ports of loopback, for scripts that need an authorization server and an API:
//!
//! ```text
//! cargo run --example stand_ins -- 18081 18082 [LIFETIME]
//! ```
//!
//! GeoDataHub's on the first port, GBDX's on the second, tokens that live so many seconds (3600). Prints a
//! configuration for them, then runs until it is killed.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use valetd::stand_in::{Options, Provider, StandIn};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let numbers = std::env::args().skip(1).map(|number| number.parse()).collect::<Result<Vec<u64>, _>>()?;
    let [gdh_port, gbdx_port, rest @ ..] = numbers.as_slice() else {
        return Err("two ports, and perhaps the tokens' lifetime in seconds".into());
    };
    let lifetime = Duration::from_secs(rest.first().copied().unwrap_or(3600));
    let options = Options { access_lifetime: lifetime, ..Options::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let at = |port: &u64| {
            Ok::<_, std::num::TryFromIntError>(SocketAddr::from((Ipv4Addr::LOCALHOST, (*port).try_into()?)))
        };
        let gdh = StandIn::start_on(at(gdh_port)?, Provider::Gdh, options).await?;
        let gbdx = StandIn::start_on(at(gbdx_port)?, Provider::Gbdx, options).await?;
        let (cognito, revocation) =
            (gdh.cognito_endpoint().unwrap_or_default(), gdh.revocation_endpoint().unwrap_or_default());
        let mut text = format!(
            "[account.gdh]\nprovider = \"gdh\"\ntoken_endpoint = \"{}\"\ncognito_endpoint = \"{cognito}\"\n\
             revocation_endpoint = \"{revocation}\"\nupstream = \"{}\"\n\n\
             [account.gbdx]\nprovider = \"gbdx\"\ntoken_endpoint = \"{}\"\nupstream = \"{}\"\n",
            gdh.token_endpoint(),
            gdh.url(),
            gbdx.token_endpoint(),
            gbdx.url(),
        );
        for route in ["vector", "rda", "idaho"] {
            text.push_str(&format!("\n[route.gbdx-{route}]\nupstream = \"{}\"\n", gbdx.url()));
        }
        print!("{text}");
        std::io::stdout().flush()?;
        std::future::pending().await
    })
}
