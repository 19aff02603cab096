"""Webhooks: news of a project, sent to addresses that somebody named. Hears every event; knows no other room."""
