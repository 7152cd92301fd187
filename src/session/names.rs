//! The names a session has given to prepared statements.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use foldhash::fast::RandomState;

use super::core::Core;
use crate::pool::{Statement, text_of};
use crate::sql::Facts;
use crate::wire::flow::StatementId;

enum Pending {
    Name(Box<[u8]>),
    Unnamed,
    Nothing,
}

/// A statement under a session's name.
#[derive(Clone)]
pub(super) struct Named {
    pub statement: Rc<Statement>,
    /// What the client was told that its rows look like.
    pub told: Option<u64>,
    /// They look otherwise by now.
    pub stale: bool,
}

/// What a Bind needs to know of a name, found out once.
#[derive(Default)]
pub(super) struct Resolved {
    /// `None`: it is the unnamed statement's, or nobody's.
    pub statement: Option<Rc<Statement>>,
    pub told: Option<u64>,
    pub stale: bool,
}

/// Why a statement is being described.
pub(super) enum Describing {
    /// The client asked, by this name.
    Tell(Box<[u8]>),
    /// It did, and has made another of that name since: what comes is of one that is gone.
    Gone,
    /// To know what this one's rows look like.
    Learn(Rc<Statement>),
    /// To see whether they still look as the client was told, before the statement of this name is used.
    Check(Box<[u8]>),
}

#[derive(Default)]
pub(super) struct Names {
    named: HashMap<Box<[u8]>, Named, RandomState>,
    /// The unnamed statement's definition, as in Parse; empty when there is none. Kept because it
    /// outlives the transaction it was made in, which backends do not.
    pub unnamed: Vec<u8>,
    /// `None`: there is nothing to say of it, as of most.
    unnamed_facts: Option<Box<Facts>>,
    pub unnamed_told: Option<u64>,
    pub unnamed_stale: bool,
    /// Descriptions of statements that were asked for, in order.
    pub describing: VecDeque<Describing>,
    /// What hangs on each Parse that has not been answered, in order.
    pending: VecDeque<Pending>,
}

/// The names of a session that moves to another core, where equal statements are shared anew.
pub(super) struct PackedNames {
    named: Vec<(Box<[u8]>, PackedStatement)>,
    unnamed: PackedStatement,
}

struct PackedStatement {
    definition: Box<[u8]>,
    told: Option<u64>,
    stale: bool,
}

impl PackedNames {
    pub fn unpack(self, core: &Core) -> Names {
        let facts = |definition: &[u8]| core.analyser.borrow_mut().facts(text_of(definition));
        let named = self.named.into_iter().map(|(name, PackedStatement { definition, told, stale })| {
            let statement = core.statement(&definition, facts(&definition));
            // Backends here may have it from before what the client was told was true.
            let differs = told.is_some() && statement.shape.get() != told;
            let statement = if differs { core.renewed(&statement) } else { statement };
            statement.shape.set(statement.shape.get().or(told));
            (name, Named { statement, told, stale })
        });
        let PackedStatement { definition, told, stale } = self.unnamed;
        Names {
            named: named.collect(),
            unnamed_facts: noteworthy(if definition.is_empty() { Facts::default() } else { facts(&definition) }),
            unnamed: definition.into_vec(),
            unnamed_told: told,
            unnamed_stale: stale,
            ..Names::default()
        }
    }
}

fn noteworthy(facts: Facts) -> Option<Box<Facts>> {
    (facts != Facts::default()).then(|| Box::new(facts))
}

impl Names {
    /// Nothing that was asked for is to be answered yet.
    pub fn is_at_rest(&self) -> bool {
        self.pending.is_empty() && self.describing.is_empty()
    }

    pub fn pack(self) -> PackedNames {
        let pack = |Named { statement, told, stale }: Named| {
            let definition = statement.definition.clone();
            PackedStatement { definition, told, stale }
        };
        let named = self.named.into_iter().map(|(name, named)| (name, pack(named))).collect();
        let definition = self.unnamed.into_boxed_slice();
        let unnamed = PackedStatement { definition, told: self.unnamed_told, stale: self.unnamed_stale };
        PackedNames { named, unnamed }
    }

    pub fn get(&self, name: &[u8]) -> Option<&Named> {
        self.named.get(name)
    }

    /// What the client has prepared under a name, or under none.
    pub fn text(&self, name: &[u8]) -> Option<&[u8]> {
        if name.is_empty() {
            return Some(text_of(&self.unnamed));
        }
        self.get(name).map(|named| named.statement.text())
    }

    /// The empty name is the unnamed statement's.
    pub fn resolve(&self, name: &[u8]) -> Resolved {
        if name.is_empty() {
            return Resolved { statement: None, told: self.unnamed_told, stale: self.unnamed_stale };
        }
        let Some(Named { statement, told, stale }) = self.get(name) else { return Resolved::default() };
        Resolved { statement: Some(Rc::clone(statement)), told: *told, stale: *stale }
    }

    pub fn len(&self) -> usize {
        self.named.len()
    }

    /// A Parse that makes this name was asked for.
    pub fn asked(&mut self, name: &[u8], statement: Rc<Statement>) {
        self.pending.push_back(Pending::Name(name.into()));
        self.replaced(name);
        self.named.insert(name.into(), Named { statement, told: None, stale: false });
    }

    /// A name that is not asked for but given.
    pub fn adopt(&mut self, name: &[u8], statement: Rc<Statement>) {
        self.replaced(name);
        self.named.insert(name.into(), Named { statement, told: None, stale: false });
    }

    pub fn asked_unnamed(&mut self) {
        self.pending.push_back(Pending::Unnamed);
        self.replaced(b"");
    }

    /// Descriptions that are still to come are of the statement that had the name before.
    fn replaced(&mut self, name: &[u8]) {
        for why in &mut self.describing {
            if matches!(why, Describing::Tell(told) if **told == *name) {
                *why = Describing::Gone;
            }
        }
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

    pub fn unnamed_facts(&self) -> Option<&Facts> {
        self.unnamed_facts.as_deref()
    }

    pub fn set_unnamed_facts(&mut self, facts: Facts) {
        self.unnamed_facts = noteworthy(facts);
    }

    pub fn forget_unnamed(&mut self) {
        self.unnamed.clear();
        self.unnamed_facts = None;
        self.unnamed_told = None;
        self.unnamed_stale = false;
    }

    /// DEALLOCATE ALL: what is being prepared behind it stays.
    pub fn forget_all(&mut self) {
        let pending = &self.pending;
        self.named.retain(|name, _| pending.iter().any(|one| matches!(one, Pending::Name(new) if new == name)));
    }

    /// What names the tenant's own notification channels is of no use to another.
    pub fn leave_tenant(&mut self) {
        self.named.retain(|_, named| !named.statement.facts.channels);
        if self.unnamed_facts().is_some_and(|facts| facts.channels) {
            self.forget_unnamed();
        }
    }

    /// The statement of this number is `renewed` from now on.
    pub fn renew(&mut self, id: StatementId, renew: impl Fn(&Statement) -> Rc<Statement>) {
        for named in self.named.values_mut().filter(|named| named.statement.id == id) {
            *named = Named { statement: renew(&named.statement), told: None, stale: false };
        }
    }

    /// The server will not run this statement any more: its rows look otherwise now. A client that goes by
    /// what it was told must prepare it again.
    pub fn outlived(&mut self, id: StatementId, renew: impl Fn(&Statement) -> Rc<Statement>) {
        for named in self.named.values_mut().filter(|named| named.statement.id == id) {
            if named.told.is_some() {
                named.stale = true;
            } else {
                named.statement = renew(&named.statement);
            }
        }
    }

    /// What the client was told of this name's rows; the empty name is the unnamed statement's.
    pub fn told(&self, name: &[u8]) -> Option<u64> {
        if name.is_empty() { self.unnamed_told } else { self.named.get(name)?.told }
    }

    pub fn tell(&mut self, name: &[u8], shape: u64) {
        if name.is_empty() {
            self.unnamed_told = Some(shape);
        } else if let Some(named) = self.named.get_mut(name) {
            named.told = Some(shape);
        }
    }

    pub fn make_stale(&mut self, name: &[u8]) {
        if name.is_empty() {
            self.unnamed_stale = true;
        } else if let Some(named) = self.named.get_mut(name) {
            named.stale = true;
        }
    }

    pub fn close(&mut self, name: &[u8]) {
        self.named.remove(name);
    }
}
