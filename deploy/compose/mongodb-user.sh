# Sourced once by the image mongo, when its data folder is empty: history's own user, with rights on its database alone.
# Both values come from `python3 -m deploy.compose`, whose passwords are hexadecimal: nothing to quote.
mongosh --quiet "mongodb://127.0.0.1:27017/$MONGO_INITDB_DATABASE" <<JS
db.createUser({
  user: "history",
  pwd: "$(cat /run/secrets/mongodb-history-password)",
  roles: [{ role: "readWrite", db: "$MONGO_INITDB_DATABASE" }],
})
JS
