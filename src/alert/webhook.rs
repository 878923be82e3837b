//! A webhook: one request for each message.

use std::time::Duration;

use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};

use super::event::Event;
use super::http::{Receiver, Refused};
use super::template;
use crate::config::channels::Webhook;
use crate::error::{Error, Kind, Result};

/// A webhook, ready to be called.
pub struct Poster {
    webhook: Webhook,
    receiver: Receiver,
}

impl Poster {
    /// # Errors
    /// A secret or the certificates are not to be had.
    pub fn new(webhook: &Webhook) -> Result<Self> {
        let receiver = Receiver::new(&webhook.channel(), &webhook.url, &webhook.headers, webhook.ca_file.as_deref())?;
        Ok(Poster { webhook: webhook.clone(), receiver })
    }

    pub fn receiver(&self) -> &Receiver {
        &self.receiver
    }

    /// Sends an event. `number` tells it apart from every other, so that one that comes twice can be
    /// known.
    ///
    /// # Errors
    /// The receiver does not take it, or not in time.
    pub async fn send(&self, event: &Event, number: &str, patience: Duration) -> Result<(), Refused> {
        let body = template::render(&self.webhook.body, &self.webhook.content_type, event)
            .map_err(|error| error.context(self.webhook.channel()))?;
        let header =
            |text: &str| HeaderValue::from_str(text).map_err(|_| Error::new(Kind::Config, format!("{text:?} cannot stand in a header")));
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, header(&self.webhook.content_type)?);
        headers.insert("idempotency-key", header(number)?);
        let method = if self.webhook.is_put { Method::PUT } else { Method::POST };
        self.receiver.send(method, "", headers, body, patience).await
    }
}
