// Values under the pointer, in all plots over time at once. Without it the page only lacks these.
(function () {
  var figures = Array.from(document.querySelectorAll('figure[data-panel]'));
  function digits(v) {
    var a = Math.abs(v);
    if (a >= 1000) return Math.round(v).toLocaleString('en');
    return String(+v.toPrecision(3));
  }
  function amount(v, unit) {
    if (v === null) return '–';
    if (unit === 'ms') return v >= 1000 ? digits(v / 1000) + ' s' : v >= 1 ? digits(v) + ' ms' : digits(v * 1000) + ' µs';
    if (unit === 'bytes') {
      var names = ['B', 'KiB', 'MiB', 'GiB', 'TiB'], i = 0;
      while (v >= 999.5) { if (i === 4) break; v /= 1024; i++; }
      return digits(v) + ' ' + names[i];
    }
    if (unit === '1/s') return digits(v) + '/s';
    return digits(v);
  }
  function show(i) {
    figures.forEach(function (f) {
      var cross = f.querySelector('.cross');
      cross.setAttribute('transform', 'translate(' + (i === null ? 0 : hover.x[i]) + ' 0)');
      cross.setAttribute('visibility', i === null ? 'hidden' : 'visible');
      var lines = hover.lines[f.dataset.panel];
      f.querySelectorAll('.here').forEach(function (o, k) {
        o.textContent = i === null ? '' : amount(lines[k][i], f.dataset.unit);
      });
      f.querySelector('.moment').textContent = i === null ? '' : hover.at[i];
    });
  }
  figures.forEach(function (f) {
    var svg = f.querySelector('svg.time');
    svg.addEventListener('pointermove', function (e) {
      var box = svg.getBoundingClientRect(), x = (e.clientX - box.left) / box.width * 1000, best = 0;
      hover.x.forEach(function (at, i) {
        if (Math.abs(hover.x[best] - x) > Math.abs(at - x)) best = i;
      });
      show(best);
    });
    svg.addEventListener('pointerleave', function () { show(null); });
  });
})();
