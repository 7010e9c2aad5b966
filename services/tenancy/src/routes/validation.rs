//! Validation of names, and the responses to refused fields.

use http_server::{FieldError, Problem};

use crate::grant::{self, Fault};

pub(super) fn check_name(field: &'static str, name: &str) -> Result<(), Problem> {
    if grant::is_name(name) {
        return Ok(());
    }
    Err(invalid(Fault { field, reason: "1 to 255 characters, no control characters, no blank at either end" }))
}

pub(super) fn invalid(fault: Fault) -> Problem {
    Problem::invalid("invalid_request", format!("{}: {}", fault.field, fault.reason)).with_details(details(fault))
}

pub(super) fn forbidden(fault: Fault) -> Problem {
    Problem::forbidden(format!("{}: {}", fault.field, fault.reason)).with_details(details(fault))
}

fn details(fault: Fault) -> Vec<FieldError> {
    vec![FieldError { field: fault.field.to_owned(), reason: fault.reason.to_owned() }]
}
