"""The domain, one noun a room. Top imports bottom:

overview > lineage > serving | training > registry > tracking > data > jobs > cost | monitoring > tenancy

A room holds ``model.py`` (frozen nouns, states with their move table, operations), ``rules.py`` (pure decisions: snapshot in, plan out),
``service.py`` (load, decide, commit in one short transaction) and ``ports.py`` (what it needs stored).
"""
