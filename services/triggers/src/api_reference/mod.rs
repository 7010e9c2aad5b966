//! The OpenAPI document as files: `schemas/openapi.json` and `docs/http-api.md`. `make docs` writes them; a test fails
//! if they differ from the code.

mod page;
mod tests;
