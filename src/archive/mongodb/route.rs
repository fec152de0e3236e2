//! Which server the commands of a request go to.

use std::sync::Arc;

use bson::{Document, doc};
use mongodb::{
    Database, ServerInfo,
    error::Error,
    options::{ReadPreference, SelectionCriteria},
};
use parking_lot::Mutex;

/// What the URI says of the servers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Servers {
    pub(super) are_many: bool,
    pub(super) is_direct: bool,
}

/// Where the commands of a request go.
#[derive(Clone)]
pub(super) struct Route {
    pub(super) criteria: Option<SelectionCriteria>,
    /// Part of a `find` through a router: the driver adds none to a command that goes where a predicate says. For a member of a
    /// replica set it adds one itself, and MongoDB refuses a second one.
    pub(super) read_preference: Option<Document>,
}

impl Route {
    /// One server for all commands of a request: a cursor is known only where it was opened, and the driver chooses a server
    /// for each command.
    pub(super) async fn choose(database: &Database, servers: Servers) -> Result<Self, Error> {
        let criteria = database.selection_criteria().cloned();
        let of_primary = matches!(&criteria, None | Some(SelectionCriteria::ReadPreference(ReadPreference::Primary)));
        let as_driver = Self { criteria: criteria.clone(), read_preference: None };
        if servers.is_direct || (of_primary && !servers.are_many) {
            return Ok(as_driver);
        }
        let mut hello = database.run_command(doc! { "hello": 1 });
        if let Some(criteria) = &criteria {
            hello = hello.selection_criteria(criteria.clone());
        }
        let hello = hello.await?;
        if let Ok(me) = hello.get_str("me") {
            let me = me.to_owned();
            let is_me = move |server: &ServerInfo<'_>| server.address().to_string().eq_ignore_ascii_case(&me);
            return Ok(Self { criteria: Some(SelectionCriteria::Predicate(Arc::new(is_me))), ..as_driver });
        }
        if hello.get_str("msg").is_ok_and(|message| message == "isdbgrid") {
            // A router: the first that answers, from then on.
            let chosen = Mutex::new(None);
            let is_chosen = move |server: &ServerInfo<'_>| {
                let address = server.address();
                server.max_wire_version().is_some()
                    && chosen.lock().get_or_insert_with(|| address.to_string()) == &address.to_string()
            };
            let read_preference = match criteria {
                Some(SelectionCriteria::ReadPreference(preference)) if !of_primary => Some(for_router(&preference)?),
                _ => None,
            };
            return Ok(Self { criteria: Some(SelectionCriteria::Predicate(Arc::new(is_chosen))), read_preference });
        }
        Ok(as_driver)
    }
}

/// `$readPreference`, in MongoDB's names.
fn for_router(preference: &ReadPreference) -> Result<Document, Error> {
    let mut document = bson::serialize_to_document(preference)?;
    if let Some(tags) = document.remove("tagSets") {
        document.insert("tags", tags);
    }
    Ok(document)
}
