//! The shipped rules under a model checker: docs/model.md.

mod model;
