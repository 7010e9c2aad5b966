//! Columns of rows, for statements with `UNNEST`.

/// One column of `rows` as an array.
pub(crate) fn column<'a, R, T>(rows: &'a [R], value: impl Fn(&'a R) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}
