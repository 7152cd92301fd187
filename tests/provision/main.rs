//! `pgward tenant`, run as a program against real clusters while a proxy serves: every level from add to remove, with
//! a witness that must not notice, and all that can come between.

#[path = "../support/mod.rs"]
mod support;

#[path = "../support/spawned.rs"]
mod spawned;

mod catalogue;
mod interrupted;
mod life;
mod limits;
mod place;
mod rows;

use place::*;
