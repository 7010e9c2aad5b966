//! postgres (being written).
