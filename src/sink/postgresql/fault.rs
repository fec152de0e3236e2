//! The meaning of an SQLSTATE for delivery, by code and never by text. Only errors about values reject a record, and only
//! one that was sent alone; an unknown code names no record, so the worker finds out by bisecting who is at fault.

use crate::sink::SinkErrorKind;

/// The meaning of an error of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The server cannot accept it now.
    Unavailable(SinkErrorKind),
    /// What the setup made is missing: a table, a partition, the schema.
    Missing,
    /// The tables have another shape: nothing can be stored until someone changes them.
    Unsuitable,
    /// A key exists already: the record, or another one with the same value under a unique index of the user's.
    Duplicate,
    /// The server does not accept these values: the record is at fault, or an expression or a trigger of the table.
    Refused,
    /// A constraint or a trigger refuses these values; it may be changed.
    Objected,
    /// Unknown.
    Unknown,
}

impl Fault {
    /// What a code of PostgreSQL's appendix A means for a statement that writes; `constraint` tells whether the error names
    /// one.
    pub(super) fn of(code: &str, constraint: bool) -> Self {
        let unavailable = Self::Unavailable(SinkErrorKind::Unavailable);
        match code {
            // disk full
            "53100" => return Self::Unavailable(SinkErrorKind::Full),
            // a statement that took too long: `statement_timeout`, or someone canceled it
            "57014" => return Self::Unavailable(SinkErrorKind::Timeout),
            // rights
            "42501" => return Self::Unavailable(SinkErrorKind::Unauthorized),
            // no partition has a place for the row; a constraint of the user's has a name
            "23514" if !constraint => return Self::Missing,
            "23505" => return Self::Duplicate,
            // relation, schema
            "42P01" | "3F000" => return Self::Missing,
            // column, type, key, kind of relation, generated column, function
            "42703" | "42804" | "42P10" | "42809" | "428C9" | "42883" | "42704" => return Self::Unsuitable,
            // an index row or a message that is too large
            "54000" => return Self::Refused,
            _ => {}
        }
        match code.get(..2).unwrap_or_default() {
            // connection; transaction state (a read-only server or standby is 25006); rollback: serialization, deadlock
            "08" | "25" | "40"
            // resources, locks and other states that pass, operator intervention (57P01 … 57P05), system errors
            | "53" | "55" | "57" | "58"
            // the statement's name is unknown (a pooler changed the connection); the database does not exist (yet)
            | "26" | "3D"
            // snapshot too old, configuration file, foreign servers
            | "72" | "F0" | "HV" => unavailable,
            // authorization, roles
            "28" | "0L" | "0P" => Self::Unavailable(SinkErrorKind::Unauthorized),
            // values: ranges, encodings, JSON
            "22" => Self::Refused,
            // constraints; exceptions that functions raise
            "23" | "44" | "P0" | "09" | "38" | "39" => Self::Objected,
            _ if matches!(code, "XX001" | "XX002") => unavailable,
            _ => Self::Unknown,
        }
    }

    /// As the cause of a failure that names no record.
    pub(super) const fn kind(self) -> SinkErrorKind {
        match self {
            Self::Unavailable(kind) => kind,
            Self::Missing => SinkErrorKind::Unavailable,
            Self::Unsuitable => SinkErrorKind::Unsuitable,
            Self::Duplicate | Self::Refused | Self::Objected | Self::Unknown => SinkErrorKind::Unnamed,
        }
    }

    /// True if the connection is of no more use after it, or another host may be the right one.
    pub(super) fn ends_connection(code: &str) -> bool {
        matches!(code, "25006" | "26000" | "25P02" | "25P03") || matches!(code.get(..2), Some("08" | "57" | "58"))
    }
}

#[cfg(test)]
mod tests {
    use SinkErrorKind::{Full, Timeout, Unauthorized, Unavailable};

    use super::*;

    #[test]
    fn errors_that_pass_are_retried() {
        for code in [
            "08000", "08003", "08006", "08001", "08004", "08P01", "40001", "40P01", "40003", "53000", "53200", "53300",
            "53400", "55P03", "55006", "55000", "57P01", "57P02", "57P03", "57P04", "57P05", "58000", "58030", "58P01",
            "25006", "25P02", "25P03", "26000", "3D000", "72000", "XX001", "XX002", "F0000", "HV000",
        ] {
            assert_eq!(Fault::of(code, false), Fault::Unavailable(Unavailable), "{code}");
        }
        assert_eq!(Fault::of("53100", false), Fault::Unavailable(Full));
        assert_eq!(Fault::of("57014", false), Fault::Unavailable(Timeout));
    }

    #[test]
    fn missing_rights_and_wrong_passwords_are_retried_and_named() {
        for code in ["28000", "28P01", "42501", "0L000", "0P000"] {
            assert_eq!(Fault::of(code, false), Fault::Unavailable(Unauthorized), "{code}");
        }
    }

    #[test]
    fn what_the_setup_can_make_again_is_missing_and_another_shape_is_unsuitable() {
        for code in ["42P01", "3F000", "23514"] {
            assert_eq!(Fault::of(code, false), Fault::Missing, "{code}");
            assert_eq!(Fault::of(code, false).kind(), Unavailable);
        }
        for code in ["42703", "42804", "42P10", "42809", "428C9", "42883"] {
            assert_eq!(Fault::of(code, false).kind(), SinkErrorKind::Unsuitable, "{code}");
        }
    }

    #[test]
    fn only_values_are_refused_for_good_and_a_constraint_of_the_users_may_be_changed() {
        for code in ["22021", "22P05", "22003", "22008", "22P02", "22001", "22030", "54000"] {
            assert_eq!(Fault::of(code, false), Fault::Refused, "{code}");
        }
        for code in ["23502", "23503", "23514", "23P01", "P0001", "P0004", "44000", "09000", "38000"] {
            assert_eq!(Fault::of(code, true), Fault::Objected, "{code}");
        }
        assert_eq!(Fault::of("23505", true), Fault::Duplicate);
    }

    #[test]
    fn an_error_that_names_no_record_never_refuses_one_and_an_unknown_one_stays_unknown() {
        for code in ["22021", "23505", "P0001", "XX000", "42601", "0A000", "99999", "", "é"] {
            assert_eq!(Fault::of(code, true).kind(), SinkErrorKind::Unnamed, "{code}");
        }
        for code in ["XX000", "42601", "0A000", "99999", "", "é", "00000", "01000"] {
            assert_eq!(Fault::of(code, false), Fault::Unknown, "{code}");
        }
    }

    #[test]
    fn a_connection_that_died_or_cannot_write_is_not_used_again() {
        for code in ["57P01", "08006", "25006", "26000"] {
            assert!(Fault::ends_connection(code), "{code}");
        }
        for code in ["22P05", "40001", "53100", "42P01", "é"] {
            assert!(!Fault::ends_connection(code), "{code}");
        }
    }
}
