"""Tenancy: projects, roles, tokens, and the audit log. The lowest room: everything belongs to a project."""
