//! The table with a worker's own connections to the upstreams.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::config::Route;
use crate::proxy::table::{RouteEntry, Table};
use crate::proxy::upstream::{Pool, Warmth};

/// The table with this worker's pools.
pub(crate) struct LocalTable {
    pub(crate) shared: Arc<Table>,
    /// In the order of the table.
    pub(crate) routes: Vec<Rc<LocalRoute>>,
}

/// A route with this worker's connections to its upstream.
pub(crate) struct LocalRoute {
    pub(crate) entry: Arc<RouteEntry>,
    pub(crate) pool: Rc<Pool>,
}

impl LocalTable {
    /// Joins a table with the pools of `before`, as far as their upstreams are still in it.
    pub(crate) fn new(shared: Arc<Table>, before: &[Rc<LocalRoute>]) -> Rc<Self> {
        let mut pools: HashMap<u64, Rc<Pool>> =
            before.iter().map(|route| (route.pool.upstream.id, route.pool.clone())).collect();
        let routes = shared.routes.iter().map(|entry| {
            let upstream = &entry.upstream;
            let pool = pools.entry(upstream.id).or_insert_with(|| Pool::new(upstream.clone())).clone();
            Rc::new(LocalRoute { entry: entry.clone(), pool })
        });
        let routes: Vec<Rc<LocalRoute>> = routes.collect();
        for route in &routes {
            route.pool.warmth.set(Warmth::default());
        }
        for route in &routes {
            let (pool, Route { warm, connect_timeout, .. }) = (&route.pool, &route.entry.config);
            if *warm > pool.warmth.get().span {
                pool.warmth.set(Warmth { span: *warm, connect_timeout: *connect_timeout });
            }
        }
        Rc::new(Self { shared, routes })
    }
}
