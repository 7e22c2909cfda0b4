"""What is kept: the catalogue (SQLite, the truth) and the FAISS files (derived from it).

catalog    writes; SQLAlchemy
reader     reads one snapshot; sqlite3 alone
ann        FAISS: build, open, nearest
lock       one writer at a time
check      find damage, repair what can be repaired
migrations, schema, failures, text_cache
"""
