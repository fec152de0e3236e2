//! Reading what the sink has stored, on a connection and in a transaction that can change nothing.

use std::{pin::Pin, time::Duration};

use futures::StreamExt;
use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};

use super::{PostgresqlOptions, columns::table, describe::Failure, limited, session::Session};
use crate::{record::Stream, sink::SinkErrorKind};

/// A connection for reading; what is under way ends when it is dropped.
pub(crate) struct Reader {
    session: Session,
    schema: String,
}

/// A parameter of a statement.
pub(crate) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

impl Reader {
    /// Connects, and begins a transaction in which each statement may take as long as `timeout`.
    ///
    /// # Errors
    /// When no server can be reached, or it refuses the user: what failed, in one line.
    pub(crate) async fn open(options: &PostgresqlOptions, timeout: Duration) -> Result<Self, Failure> {
        let target = options.target().map_err(|error| (SinkErrorKind::Unsuitable, error.to_string()))?;
        let session = Session::open(&target, timeout, limited::ANY).await?;
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        if let Err(error) = session.client.batch_execute(begin).await {
            return Err(session.failure(&error));
        }
        Ok(Self { session, schema: options.schema.clone() })
    }

    /// A stream's table, as it is written in statements.
    pub(crate) fn table(&self, stream: Stream) -> String {
        table(&self.schema, stream.as_str())
    }

    /// Hands the rows of a statement to `each` until it returns false: then the reader is of no further use, since the rest
    /// of the rows is still on its way.
    ///
    /// # Errors
    /// When the statement fails, or takes too long ([`SinkErrorKind::Timeout`]).
    pub(crate) async fn each_row(
        &self,
        statement: &str,
        parameters: &[Parameter<'_>],
        each: &mut (dyn FnMut(&Row) -> bool + Send),
    ) -> Result<(), Failure> {
        let failed = |error| self.session.failure(&error);
        let parameters = parameters.iter().map(|(value, kind)| (*value, kind.clone()));
        let rows = self.session.client.query_typed_raw(statement, parameters).await.map_err(failed)?;
        let mut rows: Pin<Box<_>> = Box::pin(rows);
        while let Some(row) = rows.next().await {
            if !each(&row.map_err(failed)?) {
                break;
            }
        }
        Ok(())
    }
}
