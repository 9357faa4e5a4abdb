"""Rows on their way into a training: splits, tokens with their mask, packing, order, batches."""
