"""Result files to tables, pictures and pages."""
