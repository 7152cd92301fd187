//! The names a session has given to prepared statements.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use crate::pool::Statement;
use crate::sql::Facts;
use crate::wire::flow::StatementId;

enum Pending {
    Name(Box<[u8]>),
    Unnamed,
    Nothing,
}

#[derive(Default)]
pub(super) struct Names {
    named: HashMap<Box<[u8]>, Rc<Statement>>,
    /// The unnamed statement's definition, as in Parse; empty when there is none. Kept because it
    /// outlives the transaction it was made in, which backends do not.
    pub unnamed: Vec<u8>,
    pub unnamed_facts: Facts,
    /// What hangs on each Parse that has not been answered, in order.
    pending: VecDeque<Pending>,
}

impl Names {
    pub fn get(&self, name: &[u8]) -> Option<&Rc<Statement>> {
        self.named.get(name)
    }

    pub fn len(&self) -> usize {
        self.named.len()
    }

    /// A Parse that makes this name was asked for.
    pub fn asked(&mut self, name: &[u8], statement: Rc<Statement>) {
        self.pending.push_back(Pending::Name(name.into()));
        self.named.insert(name.into(), statement);
    }

    pub fn asked_unnamed(&mut self) {
        self.pending.push_back(Pending::Unnamed);
    }

    /// A Parse that the server will refuse, as its name is taken.
    pub fn asked_again(&mut self) {
        self.pending.push_back(Pending::Nothing);
    }

    /// Some Parse was asked for and not answered.
    pub fn awaits_answers(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The oldest Parse asked for has come true.
    pub fn confirmed(&mut self) {
        self.pending.pop_front();
    }

    /// The oldest Parse asked for has failed or was skipped.
    pub fn lost(&mut self) {
        match self.pending.pop_front() {
            Some(Pending::Name(name)) => drop(self.named.remove(&name)),
            Some(Pending::Unnamed) => self.forget_unnamed(),
            Some(Pending::Nothing) | None => {}
        }
    }

    pub fn forget_unnamed(&mut self) {
        self.unnamed.clear();
        self.unnamed_facts = Facts::default();
    }

    /// DEALLOCATE ALL.
    pub fn forget_all(&mut self) {
        self.named.clear();
        self.forget_unnamed();
    }

    /// The statement of this number is `renewed` from now on.
    pub fn renew(&mut self, id: StatementId, renew: impl Fn(&Statement) -> Rc<Statement>) {
        for statement in self.named.values_mut().filter(|statement| statement.id == id) {
            *statement = renew(statement);
        }
    }

    pub fn close(&mut self, name: &[u8]) {
        self.named.remove(name);
    }
}
