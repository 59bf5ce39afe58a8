//! The options of the service that is asked about users over HTTP.

use super::{OptionSpec, integer, option, unset};
use crate::kind::Kind;

pub(super) const OPTIONS: &[OptionSpec] = &[
    unset(
        option(
            "access.http.url",
            Kind::HttpUrl,
            "Service that is asked about every user name and password, before any file of users; what it answers may say what the client may do.",
        ),
        "none",
    ),
    unset(
        option(
            "access.http.renew_url",
            Kind::HttpUrl,
            "Service that is asked every `access.http.renew_seconds` about each user it let in who is still connected, without the password; it may be the same.",
        ),
        "none; an answer holds as long as the connection, or as it says",
    ),
    option("access.http.format", Kind::Choice(&["json", "form"]), "The form of a question."),
    unset(
        option(
            "access.http.token_file",
            Kind::Path,
            "File with a token that is sent with each question: `Authorization: Bearer` and the token.",
        ),
        "none",
    ),
    unset(
        option(
            "access.http.ca",
            Kind::Path,
            "PEM file, or directory of such files, with the authorities that certify the service.",
        ),
        "those of the system",
    ),
    integer(
        "access.http.timeout_milliseconds",
        50,
        60_000,
        "How long an answer may take, connecting included, in milliseconds.",
    ),
    integer(
        "access.http.connections_max",
        1,
        256,
        "Questions that are asked at one time; more of them wait, as long as a client may take to connect.",
    ),
    integer("access.http.cache_entries_max", 0, 1_000_000, "Answers that are kept; 0 keeps none."),
    integer(
        "access.http.cache_seconds",
        0,
        86_400,
        "How long an answer is kept that lets a client in, in seconds; a reload forgets it.",
    ),
    integer(
        "access.http.cache_denied_seconds",
        0,
        3_600,
        "How long any other answer is kept, in seconds; a reload forgets it.",
    ),
    integer(
        "access.http.renew_seconds",
        1,
        86_400,
        "How often `access.http.renew_url` is asked about a client, in seconds.",
    ),
    integer(
        "access.http.stale_seconds",
        0,
        604_800,
        "How long after that a client may stay while there is no answer, in seconds; with `access.http.on_failure = \"allow\"` for ever.",
    ),
    option(
        "access.http.on_failure",
        Kind::Choice(&["deny", "next", "allow"]),
        "What becomes of a login while there is no answer: it is refused for now (0x89), or files and tokens decide, or anybody is let in with any password.",
    ),
];
