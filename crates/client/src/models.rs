use crate::api::Api;
use crate::error::Error;

impl Api {
    /// The names of the models that the server has.
    ///
    /// # Errors
    /// The server does not answer, or not with a list of models.
    pub async fn models(&self) -> Result<Vec<String>, Error> {
        let reply = self.get("/v1/models").await?;
        if !reply.is_success() {
            return Err(reply.into_error(self.url()));
        }
        let names = |data: &Vec<serde_json::Value>| {
            data.iter().map(|model| model["id"].as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        };
        let found = reply.body["data"].as_array().and_then(names);
        found.ok_or_else(|| {
            let found = crate::error::excerpt(reply.body.to_string().as_bytes());
            Error::Unexpected { url: self.url().to_owned(), expected: "list of models", found }
        })
    }

    /// `name`, or without one the server's first model.
    ///
    /// # Errors
    /// As [`Self::models`], or the server has none.
    pub(crate) async fn model(&self, name: Option<&str>) -> Result<String, Error> {
        if let Some(name) = name {
            return Ok(name.to_owned());
        }
        self.models().await?.into_iter().next().ok_or_else(|| Error::Unexpected {
            url: self.url().to_owned(),
            expected: "model",
            found: "its list of models is empty".to_owned(),
        })
    }
}
