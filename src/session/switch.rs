//! From one tenant to another in one session, by a new token.
//!
//! A session that gives up its token, or whose new one is not good, is of no tenant: whatever it asks is
//! refused, so that an application that overlooks the error cannot go on in the tenant before.

use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;

use super::aside::{Errand, ROW};
use super::entry::Kick;
use super::handshake::Refused;
use super::introduce::introduce;
use super::login::{Admitted, Reported, is_drained, serve_identity};
use super::refuse;
use super::serve::{End, Session};
use super::world::World;
use crate::base::{Party, Report, Secret, clock};
use crate::sql::Pins;
use crate::tenant::Context;
use crate::wire::encode;
use crate::wire::table::{self, Value};

impl Session {
    /// Does what a statement about the token asks for.
    pub(super) async fn switch(&mut self, errand: &Errand, token: Option<&Secret>) -> Result<(), End> {
        self.leave_tenant();
        let outcome = match token {
            Some(token) => self.enter_by(token).await?,
            None => {
                self.note_tenant_left(None);
                Ok(String::new())
            }
        };
        match outcome {
            Ok(name) => self.confirm(errand, name),
            Err(report) => {
                self.note_tenant_left(Some(&report));
                self.fail_errand(errand, &report);
            }
        }
        Ok(())
    }

    /// From here on the session is of no tenant, and has nothing of the one before but its place among that
    /// one's clients, so that there is an end to how many can be of none.
    fn leave_tenant(&mut self) {
        self.abandon_link(false);
        self.nobody = true;
        self.pin_slot = None;
        self.set_pins(Pins::NONE);
        self.own = None;
        self.base = self.core.shared.contexts.shared(Context::plain(Party::Database("".into()), ""));
        self.context = Arc::clone(&self.base);
        self.hearing.key = None;
        self.channels = None;
        self.reading = None;
        self.mail = None;
        self.names.leave_tenant();
        self.aside.iter_mut().for_each(|aside| aside.leave_tenant());
        self.entry.leave_tenant();
    }

    /// Enters the tenant that a token leads to, and gives its name. A kick ends the wait for it.
    async fn enter_by(&mut self, token: &Secret) -> Result<Result<String, Report>, End> {
        let (core, entry) = (Rc::clone(&self.core), Rc::clone(&self.entry));
        let admission = async {
            loop {
                let world = core.shared.world.load_full();
                let admission = self.admit_by(token, &world).await?;
                // A reload meanwhile may have moved the tenant, and has not seen this session.
                if Arc::ptr_eq(&world, &core.shared.world.load()) {
                    return Ok((admission, world));
                }
            }
        };
        let admission = tokio::select! {
            admission = admission => admission,
            () = entry.until_kicked() => return Err(self.heed_kick().err().unwrap_or(End::Client)),
        };
        match admission {
            Ok(((admitted, context, reported), world)) => {
                if let Err(report) = self.note_switch(&admitted).await {
                    core.stats.login("audit");
                    return Ok(Err(report));
                }
                core.stats.login("switched");
                let grant = admitted.grant.clone();
                self.enter_tenant(admitted, context, &reported);
                // Nobody has seen the session in this tenant meanwhile.
                if is_drained(&self.local.pool, &self.usage) {
                    self.entry.kick(Kick::Drained);
                }
                if !core.shared.world.load().has_same(&world, &self.terms.id) {
                    self.entry.kick(Kick::Moved);
                }
                if !core.shared.world.load().grants(grant.as_ref()) {
                    self.entry.kick(Kick::Narrowed);
                }
                Ok(Ok(self.terms.id.tenant().map(ToString::to_string).unwrap_or_default()))
            }
            Err(Refused::Told(report)) => Ok(Err(*report)),
            Err(Refused::Gone) => Err(End::Client),
        }
    }

    async fn admit_by(&self, token: &Secret, world: &World) -> Result<(Admitted, Arc<Context>, Reported), Refused> {
        let core = &self.core;
        core.turnstile.take_turn().await;
        let identity = world.verifier.verify(token.expose(), clock::unix_now()).await.map_err(|error| {
            core.stats.login(error.outcome());
            tracing::info!(session = self.entry.id, outcome = error.outcome(), "a session's new token was refused");
            refuse::bad_token(error.hint()).because(error.outcome())
        })?;
        let who = self.stay.as_ref().map(|stay| Arc::clone(&stay.who)).unwrap_or_default();
        let hop = self.entry.hop();
        let admitted = serve_identity(core, world, &identity, &who, hop.as_ref().and_then(|hop| hop.came()))?;
        let (context, reported) =
            introduce(core, &admitted, self.wanted.as_deref().cloned().unwrap_or_default()).await?;
        Ok((admitted, context, reported))
    }

    fn enter_tenant(&mut self, admitted: Admitted, context: Arc<Context>, reported: &Reported) {
        let Admitted { terms, usage, slot, local, hearing, expires_at, .. } = admitted;
        self.entry.enter_tenant(terms.id.clone(), local.pool.id(), terms.mode, expires_at);
        self.set_pins(terms.pins());
        self.terms = terms;
        self.usage = usage;
        self.slot = Some(slot);
        self.local = local;
        self.admitted_era = 0;
        self.reading = None;
        self.base = Arc::clone(&context);
        self.context = context;
        self.hearing = hearing;
        self.nobody = false;
        // What the session set before is gone, and another server may say otherwise.
        let mut out = BytesMut::new();
        for (name, value) in reported {
            encode::parameter(&mut out, name, value);
        }
        self.to_client.queue(&out);
    }

    fn confirm(&mut self, errand: &Errand, name: String) {
        let mut out = BytesMut::new();
        let tag = if errand.row.is_some() { "SELECT 1" } else { errand.tag };
        if let Some(formats) = &errand.row {
            if errand.simple {
                table::columns(&mut out, ROW, formats);
            }
            table::row(&mut out, &[Value::from(name)], formats);
        }
        encode::complete(&mut out, tag);
        if errand.simple {
            out.extend_from_slice(encode::READY);
        }
        self.to_client.queue(&out);
    }
}
