# A Makefile that builds icons from a list of prompts: make -f icons.mk [LIST=icons.txt] [T2I_MODEL=runs/mine]
# A line of the list is NAME<tab>PROMPT. All that is missing is drawn by one process: the model is loaded once.
LIST ?= icons.txt
OUT ?= build
SCALE ?= 1

all:
	@awk -F'\t' '{gsub(/["\\]/, "", $$2); printf "{\"id\": \"%s\", \"prompt\": \"%s\"}\n", $$1, $$2}' $(LIST) \
	 | t2i sample - -o '$(OUT)/{id}.png' --scale $(SCALE) --skip-existing

# one icon by its name, drawn when the list is newer: make -f icons.mk build/save.png
$(OUT)/%.png: $(LIST)
	@t2i sample "$$(awk -F'\t' '$$1 == "$*" {print $$2}' $(LIST))" -o $@ --scale $(SCALE) -f

clean:
	rm -rf $(OUT)
.PHONY: all clean
