//! Sessions over HTTP: for the page and other programs (`own`), and as LiveKit Cloud's APIs have them, both generations
//! (`cloud_v0`, `cloud_v1`, whose `shapes` and `grid` are pure).
//!
//! All read through one `Reader`: a few reads at once, each bounded, answers of the last seconds kept (`recent`). Nothing is
//! folded on the async threads.

mod cloud_v0;
mod cloud_v1;
mod cursor;
mod grid;
mod incomplete;
mod own;
mod parameters;
mod reader;
mod recent;
mod shapes;
#[cfg(test)]
mod tests;
mod usage;

use std::sync::Arc;

use axum::Router;

use self::reader::{Configured, Reader};
use crate::app::App;

/// The routes of sessions.
pub(super) struct Routes<S> {
    /// Below `/api/v1`.
    pub(super) own: Router<S>,
    /// From the root.
    pub(super) cloud: Router<S>,
}

/// The routes over the archives of the configured sinks.
pub(super) fn routes<S: Clone + Send + Sync + 'static>(app: &Arc<App>) -> Routes<S> {
    let app = Arc::clone(app);
    over(Reader::new(Configured::new(move || app.config().sinks.clone())))
}

fn over<S: Clone + Send + Sync + 'static>(reader: Reader) -> Routes<S> {
    let reader = Arc::new(reader);
    Routes {
        own: own::routes().with_state(Arc::clone(&reader)),
        cloud: cloud_v0::routes().merge(cloud_v1::routes()).with_state(reader),
    }
}
