"""Language-model agents: chat, embeddings, the log of experiences, benchmark tasks (an extra)."""
