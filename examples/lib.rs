//! Handlers to copy: each example is a whole program that takes the same command line as `keyloom`.
