//! Shared pieces of the tests that span packages.
