// Plays the episodes of a report: frames on a canvas, and a playhead on Bokeh's plots. It needs nothing else.
'use strict';
(() => {
  const told = JSON.parse(document.getElementById('told').textContent);
  const colours = told.colours;
  const byNumber = new Map(told.episodes.map((one) => [one.number, one]));
  const at = (id) => document.getElementById(id);
  let episode = null, step = 0, timer = null, sheets = new Map();

  const model = (name) => (window.Bokeh && Bokeh.documents.map((one) => one.get_model_by_name(name)).find((one) => one)) || null;

  function last() { return episode.ids.length - 1 + (episode.has_final && Object.keys(episode.frames).length ? 1 : 0); }

  function picture(data) {
    if (!sheets.has(data)) {
      const image = new Image();
      image.src = data;
      sheets.set(data, image);
    }
    return sheets.get(data);
  }

  function draw() {
    for (const [name, [height, width, parts]] of Object.entries(episode.frames)) {
      const canvas = document.querySelector(`canvas[data-name="${CSS.escape(name)}"]`);
      let place = step, sheet = parts[0];
      for (const one of parts) {
        sheet = one;
        if (place < one[1]) break;
        place -= one[1];
      }
      const [data, , across] = sheet, image = picture(data), wanted = `${episode.number}/${step}`;
      canvas.dataset.wanted = wanted;
      const paint = () => {
        if (canvas.dataset.wanted !== wanted) return;
        canvas.getContext('2d').drawImage(image, (place % across) * width, Math.floor(place / across) * height, width, height, 0, 0, width, height);
        canvas.dataset.shown = wanted;
      };
      if (image.complete && image.naturalWidth) paint(); else image.addEventListener('load', paint, {once: true});
    }
  }

  function show(where) {
    step = Math.max(0, Math.min(last(), where));
    draw();
    at('scrub').value = step;
    const isFinal = step >= episode.ids.length;
    const place = isFinal ? episode.ids.length - 1 : step;
    const reward = episode.curves.reward;
    at('where').textContent = !reward ? `step ${step} of ${episode.length}` : isFinal
      ? `final observation, ${episode.ended}; return ${episode.return}`
      : `step ${(step * episode.every).toLocaleString('en')} of ${episode.length.toLocaleString('en')} (id ${episode.ids[step]}), reward ${reward[0][1][place]}, return so far ${reward[1][1][place]}`;
    for (const group of told.groups) {
      const head = model('head:' + group);
      if (head) head.location = place * episode.every;
    }
  }

  function fill() {
    for (const group of told.groups) {
      const lines = model('curves:' + group), image = model('image:' + group);
      if (lines) {
        const found = episode.curves[group] || [];
        lines.data = {
          xs: found.map(([, values]) => values.map((_, i) => i * episode.every)), ys: found.map(([, values]) => values.map((v) => v === null ? NaN : v)),
          colour: found.map((_, i) => colours[i % colours.length]), name: found.map(([name]) => name),
        };
      }
      if (image && episode.images[group]) {
        const rows = episode.images[group];
        const Matrix = image.data.image[0].constructor, flat = rows.flat().map((v) => v === null ? NaN : v);
        image.data = {image: [new Matrix(flat, [rows.length, rows[0].length])], dw: [episode.length], dh: [rows.length]};
      }
    }
  }

  function open(number) {
    pause();
    episode = byNumber.get(number) || null;
    at('player').hidden = !episode;
    at('absent').hidden = !!episode || Number.isNaN(number);
    at('absent').textContent = `Episode ${number} is not among those that this page plays: ${told.absent}`;
    document.querySelectorAll('#chosen a').forEach((link) => link.toggleAttribute('aria-current', link.dataset.number === String(number)));
    if (!episode) return;
    at('which').textContent = episode.title || `Episode ${number}: stream ${episode.stream}, ${episode.length.toLocaleString('en')} steps, return ${episode.return}, ${episode.ended}`;
    at('metadata').textContent = episode.metadata;
    const box = at('frames');
    box.replaceChildren(...Object.entries(episode.frames).map(([name, [height, width]]) => {
      const figure = document.createElement('figure'), canvas = document.createElement('canvas'), label = document.createElement('figcaption');
      canvas.width = width;
      canvas.height = height;
      canvas.dataset.name = name;
      canvas.style.width = `${Math.max(1, Math.floor(320 / width)) * width}px`;
      canvas.setAttribute('role', 'img');
      canvas.setAttribute('aria-label', `frame of ${name}`);
      label.textContent = name;
      figure.append(canvas, label);
      return figure;
    }));
    at('scrub').max = last();
    fill();
    show(0);
  }

  function pause() {
    clearInterval(timer);
    timer = null;
    at('play').textContent = 'Play';
  }

  function play() {
    if (timer) return pause();
    if (step >= last()) show(0);
    at('play').textContent = 'Pause';
    timer = setInterval(() => step < last() ? show(step + 1) : pause(), 1000 / Number(at('speed').value));
  }

  function follow() {
    const found = /episode=(\d+)/.exec(location.hash);
    if (found) open(Number(found[1]));
  }

  at('play').addEventListener('click', play);
  at('scrub').addEventListener('input', () => { pause(); show(Number(at('scrub').value)); });
  at('back').addEventListener('click', () => { pause(); show(step - 1); });
  at('on').addEventListener('click', () => { pause(); show(step + 1); });
  at('speed').addEventListener('change', () => { if (timer) { pause(); play(); } });
  document.addEventListener('keydown', (event) => {
    if (!episode || /INPUT|SELECT|TEXTAREA/.test(event.target.tagName) && event.target.id !== 'scrub' || event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = {ArrowLeft: step - 1, ArrowRight: step + 1, Home: 0, End: last()};
    if (event.key in moves && event.target.id !== 'scrub') { pause(); show(moves[event.key]); event.preventDefault(); }
    if (event.key === ' ' && event.target.tagName !== 'BUTTON') { play(); event.preventDefault(); }
  });
  window.addEventListener('hashchange', follow);

  // Bokeh makes its plots a moment after the page is there.
  function begin() {
    if (told.groups.length && !model('curves:' + told.groups[0])) return void setTimeout(begin, 30);
    if (/episode=\d+/.test(location.hash)) follow();
    else if (told.episodes.length) open(told.episodes[0].number);
    document.body.dataset.ready = 'yes';
  }
  begin();
})();
