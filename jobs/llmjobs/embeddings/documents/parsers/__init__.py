"""The bytes of a document become its text: one small module a format, each library imported when it is needed."""
