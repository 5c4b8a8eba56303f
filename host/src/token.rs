//! The command `hammal-host token`: makes a token for an account of the component's variable
//! `clients`.

use crate::cli::Token;
use crate::limits::login::{entry, hexadecimal};
use anyhow::{Result, anyhow};
use ring::rand::{SecureRandom as _, SystemRandom};

/// Random bytes of a token. Its hash is a fast one, so nobody may be able to guess it.
const LENGTH: usize = 20;

/// Prints a new token for the client, and the entry for the setting.
pub fn token(flags: &Token) -> Result<()> {
    let mut bytes = [0; LENGTH];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| anyhow!("the system has no random numbers"))?;
    let token = hexadecimal(&bytes);
    println!("token for the client:     {token}");
    println!("entry of clients:         {}", entry(&flags.name, &token));
    Ok(())
}
