//! A message bus (D-Bus): calls to a service that runs already, and signals. No call starts a service: each goes to the
//! unique name of a process that is there.

use std::future::poll_fn;
use std::pin::Pin;

use futures_core::Stream;
use serde::Serialize;
use serde::de::DeserializeOwned;
use zbus::names::OwnedUniqueName;
use zbus::{Connection, DynamicType, MessageStream, OwnedVariant, Type, fdo};

const BUS: &str = "org.freedesktop.DBus";

/// Why a call has no response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BusError {
    /// There is no bus, or it is gone.
    #[error("there is no message bus ({0})")]
    NoBus(String),
    /// Nobody has the name.
    #[error("{0} is not running")]
    NotRunning(String),
    /// The service says no.
    #[error("{name}")]
    Refused {
        /// The error's name.
        name: String,
    },
    /// What came back is not what was asked for.
    #[error("its response cannot be understood")]
    Garbled,
}

impl From<zbus::Error> for BusError {
    fn from(error: zbus::Error) -> Self {
        match error {
            zbus::Error::MethodError(name, ..) => Self::Refused { name: name.to_string() },
            zbus::Error::FDO(error) => Self::Refused { name: zbus::DBusError::name(&*error).to_string() },
            zbus::Error::InputOutput(_) | zbus::Error::Address(_) | zbus::Error::Handshake(_) => {
                Self::NoBus(error.to_string())
            }
            _ => Self::Garbled,
        }
    }
}

/// Which bus.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Bus {
    /// That of the user's session.
    Session,
    /// That of the machine.
    System,
    /// The one at this address.
    #[cfg(test)]
    At(String),
}

impl Bus {
    async fn connect(&self) -> Result<Connection, BusError> {
        let connected = match self {
            Self::Session => Connection::session().await,
            Self::System => Connection::system().await,
            #[cfg(test)]
            Self::At(address) => zbus::connection::Builder::address(address.as_str()).build().await,
        };
        connected.map_err(|error| BusError::NoBus(error.to_string()))
    }
}

/// A service that runs. It ends with its process: another one that takes the name is another service.
#[derive(Debug)]
pub(crate) struct Service {
    bus: Connection,
    owner: OwnedUniqueName,
}

impl Service {
    /// The process that has a name on a bus. To be called inside a runtime with I/O and time enabled, which the connection
    /// lives on.
    ///
    /// # Errors
    ///
    /// [`BusError::NotRunning`] if nobody has it, also where the bus could start somebody.
    pub(crate) async fn find(bus: &Bus, name: &str) -> Result<Self, BusError> {
        let bus = bus.connect().await?;
        let owner = owner_of(&bus, name).await?;
        Ok(Self { bus, owner })
    }

    /// Whether it has this name, too.
    ///
    /// # Errors
    ///
    /// [`BusError`]
    pub(crate) async fn has_name(&self, name: &str) -> Result<bool, BusError> {
        match owner_of(&self.bus, name).await {
            Ok(owner) => Ok(owner == self.owner),
            Err(BusError::NotRunning(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Calls a method.
    ///
    /// # Errors
    ///
    /// [`BusError`]. There is no limit of time here.
    pub(crate) async fn call<R: DeserializeOwned + Type>(
        &self,
        path: &str,
        interface: &str,
        member: &str,
        body: &(impl Serialize + DynamicType),
    ) -> Result<R, BusError> {
        let response = self.bus.call_method(Some(&self.owner), path, Some(interface), member, body).await?;
        if response.body().signature() != R::SIGNATURE {
            return Err(BusError::Garbled);
        }
        Ok(response.body().deserialize_ignore_signature()?)
    }

    /// Signals that come over the same connection, those for it alone among them.
    ///
    /// # Errors
    ///
    /// [`BusError`]
    pub(crate) async fn signals(&self, rule: &str) -> Result<Signals, BusError> {
        Signals::on(&self.bus, &[rule]).await
    }

    /// Reads a property.
    ///
    /// # Errors
    ///
    /// As with a call.
    pub(crate) async fn property<R: TryFrom<OwnedVariant>>(
        &self,
        path: &str,
        interface: &str,
        name: &str,
    ) -> Result<R, BusError> {
        let found: OwnedVariant = self.call(path, "org.freedesktop.DBus.Properties", "Get", &(interface, name)).await?;
        R::try_from(found).map_err(|_| BusError::Garbled)
    }
}

async fn owner_of(bus: &Connection, name: &str) -> Result<OwnedUniqueName, BusError> {
    let found = bus.call_method(Some(BUS), "/org/freedesktop/DBus", Some(BUS), "GetNameOwner", &name).await;
    let found = found.map_err(|error| match error {
        zbus::Error::FDO(error) if matches!(*error, fdo::Error::NameHasNoOwner(_)) => {
            BusError::NotRunning(name.to_owned())
        }
        error => error.into(),
    })?;
    Ok(found.body().deserialize()?)
}

/// Signals of a bus, as they come.
#[derive(Debug)]
pub(crate) struct Signals {
    messages: MessageStream,
}

impl Signals {
    /// Those that any of these match rules fits.
    ///
    /// # Errors
    ///
    /// [`BusError`]
    pub(crate) async fn of(bus: &Bus, rules: &[&str]) -> Result<Self, BusError> {
        Self::on(&bus.connect().await?, rules).await
    }

    async fn on(bus: &Connection, rules: &[&str]) -> Result<Self, BusError> {
        let messages = MessageStream::from(bus);
        for rule in rules {
            bus.call_method(Some(BUS), "/org/freedesktop/DBus", Some(BUS), "AddMatch", rule).await?;
        }
        Ok(Self { messages })
    }

    /// The next one; `None` when the bus is gone. Safe to drop at any point.
    pub(crate) async fn next(&mut self) -> Option<zbus::Message> {
        loop {
            let message = poll_fn(|cx| Pin::new(&mut self.messages).poll_next(cx)).await?.ok()?;
            let is_greeting = message.header().member().is_some_and(|member| member == "NameAcquired");
            if message.message_type() == zbus::message::Type::Signal && !is_greeting {
                return Some(message);
            }
        }
    }
}
