//! Encryption of exports by age (age-encryption.org/v1), so that the program `age` opens them as well.
//!
//! Each export has a key of its own, which every file is encrypted to. That key lies beside them, encrypted to a
//! passphrase or to recipients: so a passphrase is made slow to guess once, and not for each file.

use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

use age::secrecy::{ExposeSecret, SecretString};
use age::{Decryptor, Encryptor, Identity, IdentityFile, scrypt, x25519};

use super::super::Failure;
use super::private;

pub(in crate::cli::tenant) use age::x25519::Recipient;

pub(in crate::cli::tenant) const KEY: &str = "key.age";
const ENDING: &str = ".age";

/// A passphrase that is not on the command line, where others see it.
const VARIABLE: &str = "PGWARD_EXPORT_PASSPHRASE";

#[derive(Debug, clap::Args)]
pub(in crate::cli::tenant) struct SealArguments {
    /// Encrypt to this age recipient (age1...). Repeatable
    #[arg(long, value_name = "RECIPIENT", value_parser = recipient)]
    recipient: Vec<Recipient>,

    /// Encrypt by the passphrase in this file's first line; without it by PGWARD_EXPORT_PASSPHRASE, if that is set
    #[arg(long, value_name = "FILE", conflicts_with = "recipient")]
    passphrase_file: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli::tenant) struct KeyArguments {
    /// For an encrypted export: a file with the age identity of one of its recipients. What is kept is encrypted to it
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,

    /// For an encrypted export: a file whose first line is its passphrase; without it PGWARD_EXPORT_PASSPHRASE. What is
    /// kept is encrypted by it
    #[arg(long, value_name = "FILE", conflicts_with = "identity")]
    passphrase_file: Option<PathBuf>,
}

pub(in crate::cli::tenant) fn recipient(text: &str) -> Result<Recipient, String> {
    text.parse().map_err(|error| format!("{text:?} is no age recipient (age1...): {error}"))
}

/// The shortest that is taken: shorter ones are guessed.
const SHORTEST: usize = 12;

fn passphrase(file: Option<&Path>) -> Result<Option<SecretString>, Failure> {
    let text = match file {
        Some(path) => {
            let text = fs::read_to_string(path)
                .map_err(|error| Failure::said(format!("cannot read the passphrase in {}: {error}", path.display())))?;
            text.lines().next().unwrap_or_default().to_owned()
        }
        None => match std::env::var_os(VARIABLE).filter(|text| !text.is_empty()) {
            None => return Ok(None),
            Some(text) => text.into_string().map_err(|_| {
                Failure::said(format!("{VARIABLE} is not valid UTF-8; nothing is encrypted by such a passphrase"))
            })?,
        },
    };
    if text.chars().count() < SHORTEST {
        return Err(Failure::said(format!("the passphrase is too short; at least {SHORTEST} characters are taken")));
    }
    Ok(Some(SecretString::from(text)))
}

impl SealArguments {
    pub fn is_given(&self) -> bool {
        !self.recipient.is_empty() || self.passphrase_file.is_some()
    }

    /// `None`: nothing is to be encrypted.
    pub fn seal(&self) -> Result<Option<Seal>, Failure> {
        match self.recipient.as_slice() {
            [] => passphrase(self.passphrase_file.as_deref())?.map(Seal::by).transpose(),
            some => Seal::to(some).map(Some),
        }
    }
}

/// What an export is encrypted by.
pub(in crate::cli::tenant) struct Seal {
    own: x25519::Recipient,
    /// The export's key, encrypted.
    key: Vec<u8>,
}

impl Seal {
    fn to(recipients: &[Recipient]) -> Result<Self, Failure> {
        let own = x25519::Identity::generate();
        let all = recipients.iter().map(|recipient| recipient as &dyn age::Recipient);
        let mut key = Vec::new();
        let mut writer = Encryptor::with_recipients(all)?.wrap_output(&mut key)?;
        writer.write_all(own.to_string().expose_secret().as_bytes())?;
        writer.finish()?;
        Ok(Self { own: own.to_public(), key })
    }

    fn by(passphrase: SecretString) -> Result<Self, Failure> {
        let own = x25519::Identity::generate();
        let secret = own.to_string();
        let key = age::encrypt(&scrypt::Recipient::new(passphrase), secret.expose_secret().as_bytes())?;
        Ok(Self { own: own.to_public(), key })
    }

    /// Puts every file below a folder in its encrypted form, and the key beside them.
    pub fn folder(&self, folder: &Path) -> Result<(), Failure> {
        self.all(folder)?;
        let mut file = private(&folder.join(KEY))?;
        file.write_all(&self.key)?;
        Ok(file.sync_all()?)
    }

    fn all(&self, folder: &Path) -> Result<(), Failure> {
        for entry in fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()? {
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                self.all(&path)?;
                continue;
            }
            let mut plain = File::open(&path)?;
            let mut sealed = self.writer(&with_ending(&path))?;
            std::io::copy(&mut plain, &mut sealed)?;
            sealed.finish()?.sync_all()?;
            fs::remove_file(&path)?;
        }
        Ok(())
    }

    /// One more file.
    pub fn file(&self, path: &Path, text: &str) -> Result<(), Failure> {
        let mut sealed = self.writer(&with_ending(path))?;
        sealed.write_all(text.as_bytes())?;
        Ok(sealed.finish()?.sync_all()?)
    }

    fn writer(&self, path: &Path) -> Result<age::stream::StreamWriter<File>, Failure> {
        let encryptor = Encryptor::with_recipients(std::iter::once(&self.own as &dyn age::Recipient))?;
        Ok(encryptor.wrap_output(private(path)?)?)
    }
}

fn with_ending(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ENDING);
    PathBuf::from(name)
}

/// What opens one export.
pub(in crate::cli::tenant) struct Opener(x25519::Identity);

impl KeyArguments {
    /// For what is kept of now when the export is of then: who opens the one opens the other, unless others are named.
    pub fn seal(&self, recipients: &[Recipient]) -> Result<Option<Seal>, Failure> {
        if !recipients.is_empty() {
            return Seal::to(recipients).map(Some);
        }
        let Some(file) = &self.identity else {
            return passphrase(self.passphrase_file.as_deref())?.map(Seal::by).transpose();
        };
        let text = fs::read_to_string(file)
            .map_err(|error| Failure::said(format!("cannot read the identity in {}: {error}", file.display())))?;
        let identities = text.lines().filter_map(|line| line.trim().parse::<x25519::Identity>().ok());
        let all: Vec<Recipient> = identities.map(|identity| identity.to_public()).collect();
        if all.is_empty() {
            return Err(Failure::said(format!(
                "{} has no identity (AGE-SECRET-KEY-1...) that what is kept could be encrypted to; name one by --recipient",
                file.display()
            )));
        }
        Seal::to(&all).map(Some)
    }

    pub fn opener(&self, folder: &Path) -> Result<Opener, Failure> {
        let path = folder.join(KEY);
        let sealed = BufReader::new(File::open(&path)?);
        let wrong = |error: &dyn std::fmt::Display| {
            Failure::said(format!("{} is not opened by what was given: {error}", path.display()))
        };
        let decryptor = Decryptor::new(sealed).map_err(|error| wrong(&error))?;
        let identities: Vec<Box<dyn Identity + Send + Sync>> = match &self.identity {
            Some(file) => {
                let text = BufReader::new(File::open(file)?);
                IdentityFile::from_buffer(text)?.into_identities().map_err(|error| wrong(&error))?
            }
            None => {
                let Some(passphrase) = passphrase(self.passphrase_file.as_deref())? else {
                    return Err(Failure::said(format!(
                        "the export {} is encrypted; give --identity, --passphrase-file or {VARIABLE}",
                        folder.display()
                    )));
                };
                vec![Box::new(scrypt::Identity::new(passphrase))]
            }
        };
        let all = identities.iter().map(|identity| &**identity as &dyn Identity);
        let mut text = String::new();
        let mut reader = decryptor.decrypt(all).map_err(|error| wrong(&error))?;
        reader.read_to_string(&mut text)?;
        text.trim().parse().map(Opener).map_err(|error| wrong(&error))
    }
}

impl Opener {
    pub fn read(&self, path: &Path) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        self.reader(path)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Puts what is in an encrypted file into another one.
    pub fn file(&self, sealed: &Path, plain: &Path) -> Result<(), Failure> {
        let mut file = private(plain)?;
        std::io::copy(&mut self.reader(sealed)?, &mut file)?;
        Ok(file.sync_all()?)
    }

    fn reader(&self, path: &Path) -> Result<impl Read + use<>, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::said(format!("cannot open {}: {error}", path.display()));
        let decryptor = Decryptor::new(BufReader::new(File::open(path)?)).map_err(|error| failed(&error))?;
        decryptor.decrypt(std::iter::once(&self.0 as &dyn Identity)).map_err(|error| failed(&error))
    }
}

/// The name that a file has when it is not encrypted.
pub(in crate::cli::tenant) fn plain_name(name: &str) -> Option<&str> {
    name.strip_suffix(ENDING)
}
