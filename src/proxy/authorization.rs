//! The token that a request carries when it leaves.
//!
//! Between a request's preparation and its departure there may be a long time: until a connection is opened, until a
//! stream is free, until the first sending has come to nothing. What was usable before need not be usable then, and the
//! account may be configured otherwise by then. So whatever made a request wait, its token is taken anew once it has a
//! connection, from the same source as before.

use std::sync::Arc;

use hyper::Request;

use crate::proxy::policy::rewrite;
use crate::proxy::table::RouteEntry;
use crate::token_source::{Published, Unavailable};

/// What a request is authorized with.
pub(crate) struct Authorization<'a> {
    route: &'a RouteEntry,
    token: Arc<Published>,
}

impl<'a> Authorization<'a> {
    /// The request carries `token` already.
    pub(crate) fn with(route: &'a RouteEntry, token: Arc<Published>) -> Self {
        Self { route, token }
    }

    /// The token that the request carries, or carried when it left.
    pub(crate) fn token(&self) -> &Arc<Published> {
        &self.token
    }

    /// Has the request carry a token that is usable now, the one that it has if that still is. Waits for one if there is
    /// none. Returns whether it has waited.
    ///
    /// # Errors
    ///
    /// If there is none in the route's time.
    pub(crate) async fn renew<B>(&mut self, request: &mut Request<B>) -> Result<bool, Unavailable> {
        let (token, waited) = match self.route.tokens.usable() {
            Some(token) => (token, false),
            None => (self.route.tokens.token(self.route.config.wait).await?, true),
        };
        if !Arc::ptr_eq(&token, &self.token) {
            match &self.route.token_query {
                Some(name) => *request.uri_mut() = rewrite::with_token(request.uri(), name, &token.value),
                None => {
                    request.headers_mut().remove(&self.token.name);
                    request.headers_mut().insert(token.name.clone(), token.value.clone());
                }
            }
            self.token = token;
        }
        Ok(waited)
    }
}
