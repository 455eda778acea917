//! Every interleaving at small scope. The models call the shipped functions through [`rules::Rules`]; a mutant replaces
//! one of them, and the checker has to notice.

mod attach;
mod check;
mod client;
mod death;
mod head;
mod inbox;
mod lane;
mod link;
mod marks;
mod mutants;
mod rules;
