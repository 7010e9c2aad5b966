//! seal (being written).
